"""What one GPU can show in half an hour: run.py is its command."""
