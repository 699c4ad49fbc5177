"""From files to batches, and from predictions back to files."""
