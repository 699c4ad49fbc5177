"""StyleGAN."""
