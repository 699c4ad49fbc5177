"""Files of images: read and written, nothing else."""
