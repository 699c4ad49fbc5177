"""Figures, verdicts and the HTML page."""
