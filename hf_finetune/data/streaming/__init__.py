"""Datasets that are read from shards while training."""
