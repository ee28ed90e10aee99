"""Latents and text encoded once: written by `prepare`, read by training."""
