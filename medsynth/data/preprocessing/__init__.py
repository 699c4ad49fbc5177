"""From a volume or a picture to normalized slices, kept in a cache."""
