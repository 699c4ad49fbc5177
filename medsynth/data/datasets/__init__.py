"""Prepared slices and their batches."""
