"""Layers and networks that several systems use."""
