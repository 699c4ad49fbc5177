"""Measures of sets of volumes."""
