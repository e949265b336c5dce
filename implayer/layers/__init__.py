"""Layers that are a residual, a default solver and a thin class."""
