"""Judges: models that answer questions about images, in this process or on a local server."""
