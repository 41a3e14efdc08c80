"""`evaluate` modules, loaded by their path, so that no metric needs the network."""
