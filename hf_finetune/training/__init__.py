"""The Trainer, its optimizer and schedule, and its callbacks."""
