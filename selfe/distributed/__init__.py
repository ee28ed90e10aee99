"""Several processes: their ranks, how they start, and how they communicate."""
