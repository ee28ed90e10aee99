"""Readers of raw images with captions: tars, folders, parquet, datasets of the hub."""
