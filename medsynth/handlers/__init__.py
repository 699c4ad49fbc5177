"""What happens around training and is not the algorithm: checkpoints, logs, sample grids, limits."""
