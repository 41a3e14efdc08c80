"""Turns configs of MMClassification 0.x and MMPretrain 1.x into recipes, without running them."""
