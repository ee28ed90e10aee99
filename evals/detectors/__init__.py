"""Object detectors behind one contract (evals.base.Detector)."""
