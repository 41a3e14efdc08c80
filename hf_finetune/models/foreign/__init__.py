"""Reads weights of other libraries (torchvision, timm, MMPretrain, papers' authors) for networks of Transformers."""
