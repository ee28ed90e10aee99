"""A checkpoint as a folder that diffusers loads."""
