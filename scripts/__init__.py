"""Programs that measure, check and build; no library logic. Run as `python -m scripts.…`."""
