"""Coordinate networks, one file for each family, behind one interface."""
