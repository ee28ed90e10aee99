"""Preference models: how much people would like an image for its prompt."""
