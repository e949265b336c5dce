"""Shapes as level sets: from a single picture by a network, or fitted to one mesh or point cloud."""
