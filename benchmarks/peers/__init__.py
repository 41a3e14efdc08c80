"""Whole programs of others beside ours: the list of them, how they are started and what is measured of them."""
