"""The built-in phantom: synthetic heads and bodies."""
