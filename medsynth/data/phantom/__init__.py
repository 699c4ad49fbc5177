"""The built-in heads, which no person has."""
