"""A checkpoint as something that draws images."""
