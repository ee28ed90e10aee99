"""One file per family of published text-to-image models."""
