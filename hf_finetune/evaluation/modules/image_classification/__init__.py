"""The `evaluate` module of image classification; load it with `evaluate.load(folder)`."""
