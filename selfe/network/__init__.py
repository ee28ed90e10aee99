"""The dual-time FLUX-style denoiser."""
