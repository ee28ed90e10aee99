"""A run on disk: records, checkpoints (whole, sharded, in the background), and its model."""
