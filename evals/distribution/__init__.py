"""Distances between drawn images and a reference, and the spread of a prompt's own images."""
