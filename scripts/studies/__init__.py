"""Studies of the reports: what was trained, searched and packed."""
