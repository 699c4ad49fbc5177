"""From trained networks to images on disk."""
