"""What is added to a training loop: each extension is one small class."""
