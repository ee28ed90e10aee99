"""Training data: the shapes world, image-text readers, the latent cache."""
