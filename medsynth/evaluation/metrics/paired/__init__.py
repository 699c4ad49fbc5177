"""Measures of predictions beside their targets."""
