"""Writes a trained model in a form that other programs run."""
