"""What is added to the training loop: one small class for each theme, chosen by `build_extensions`."""
