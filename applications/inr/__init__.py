"""Implicit neural representations: a picture as a function of coordinates, through an equilibrium layer or without."""
