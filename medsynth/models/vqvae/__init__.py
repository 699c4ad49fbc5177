"""The VQ-VAE and the priors over its codes."""
