"""The run folder, the configuration's checks, the recipe in model.pt, tracking."""
