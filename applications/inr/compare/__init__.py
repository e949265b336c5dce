"""Several networks on one signal."""
