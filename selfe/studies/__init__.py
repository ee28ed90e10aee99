"""Studies: many trainings planned, run side by side, scored and reported; searches on validation
prompts; and results packed beside a report."""
