"""Rectified flow over the wavelet bands of whole volumes."""
