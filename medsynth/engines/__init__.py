"""Training algorithms, one file a system."""
