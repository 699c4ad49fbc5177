"""What turns a MONAI configuration into a run: checks, the run folder, the recipe in model.pt."""
