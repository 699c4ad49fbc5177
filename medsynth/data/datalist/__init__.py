"""Find images, tell subjects, match pairs, split, register."""
