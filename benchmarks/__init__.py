"""Each module compares this package with the stock Trainer, and with the limit of the machine."""
