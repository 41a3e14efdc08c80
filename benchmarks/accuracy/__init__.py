"""Accuracy after one, two and four minutes, against the programs that people use for the same."""
