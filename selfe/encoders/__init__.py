"""Image codecs and text encoders."""
