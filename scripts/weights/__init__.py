"""Builders of the weights that are shipped with the package."""
