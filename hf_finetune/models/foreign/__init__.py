"""Models room: weights from elsewhere (torchvision, timm, MMPretrain, papers' authors) as Transformers has them."""
