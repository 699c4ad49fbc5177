"""Measures of sets of images beside other sets."""
