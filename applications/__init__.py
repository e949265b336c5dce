"""Applications of implayer: programs for own data, on the command line as `implayer ...` or `python -m applications ...`."""
