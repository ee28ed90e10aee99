"""TiM-T2I: network, text, sampler and the model that joins them."""
