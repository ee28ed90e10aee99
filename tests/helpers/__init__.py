"""What is not a test: builders, fakes, transcriptions, tiny networks."""
