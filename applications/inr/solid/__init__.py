"""Shapes in space: what is inside of them, and how far away their surface is."""
