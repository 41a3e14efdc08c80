"""Reads configs of MMClassification 0.x and MMPretrain 1.x, without running them, as recipes."""
