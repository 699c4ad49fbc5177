"""Measures of synthetic images: in pairs (image), as sets (distribution, texture) and against copying (privacy)."""
