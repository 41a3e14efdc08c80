"""Export formats: how a trained model is written for other programs, and read back for a check."""
