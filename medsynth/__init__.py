"""Generative models of medical images, trained and run as MONAI bundles."""
