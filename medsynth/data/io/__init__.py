"""Read and write image files."""
