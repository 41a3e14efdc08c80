"""Recipes, the settings that they hold, and how these are read and checked."""
