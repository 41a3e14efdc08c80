"""Training transforms, for one image or for a whole batch."""
