"""Losses: tensors in, a scalar out; no network, optimizer or weight inside."""
