"""Applications of implayer: the program `implayer ...`, which is `python -m applications ...` in a clone."""
