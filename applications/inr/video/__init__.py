"""Videos as networks of time and place."""
