"""What an evaluation shows: image sets read alike, their measures, figures, words, and one page."""
