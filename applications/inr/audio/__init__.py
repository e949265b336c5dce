"""Sounds as networks of time."""
