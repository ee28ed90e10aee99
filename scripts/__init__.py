"""Programs that measure, check and build; none holds library logic. Run as `python -m scripts.…`."""
