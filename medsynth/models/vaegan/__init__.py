"""The attention VAE-GAN."""
