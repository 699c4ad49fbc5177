"""Find images, identify subjects, match pairs, split, register."""
