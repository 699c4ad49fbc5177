"""From a volume or a picture to normalized slices, stored in a cache."""
