"""The built-in phantom: synthetic heads."""
