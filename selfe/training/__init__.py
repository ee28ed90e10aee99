"""One run: its loop, one update, callbacks, logs."""
