"""Prompt suites: what is asked, and by which rules an answer is right."""
