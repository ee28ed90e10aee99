"""Several processes: who they are, how they start, how they speak to each other."""
