"""Priors over the code maps of a VQ-VAE."""
