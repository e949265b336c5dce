"""Figures and tables of "(Implicit)^2", ours beside the printed ones."""
