"""What a model got right, as figures, as a table for people, and as images."""
