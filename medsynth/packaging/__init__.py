"""A trained system as a bundle of MONAI's model zoo."""
