"""Segmentation by normalised cuts: a network learns the affinities, an eigenvector makes the mask."""
