"""What is wrong with a dataset, or looks as if it were, before anything is trained on it."""
