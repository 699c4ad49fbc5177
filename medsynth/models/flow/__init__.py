"""Rectified flow: a learned prior over latents."""
