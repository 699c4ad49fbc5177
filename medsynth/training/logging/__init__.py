"""Tables, curves and the page of a run."""
