"""Ratios of speed, measured side by side: reports/speed."""
