"""Weights from elsewhere (torchvision, timm, MMPretrain, papers' authors) as Transformers has them."""
