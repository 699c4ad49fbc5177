"""The report on sets of volumes."""
