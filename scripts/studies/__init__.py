"""Studies beside the shapes recipes, run by hand: the oracle world, where the answer is known."""
