"""Self-E: any-step text-to-image training by self-evaluation (arXiv 2512.22374)."""
