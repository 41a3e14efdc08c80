"""Metrics, the analysis of mistakes, and their presentation as tables, JSON and plots."""
