"""What a run costs before it starts: passes, FLOPs, memory, time."""
