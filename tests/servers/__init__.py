"""Real servers as real processes: every call counted once, whatever becomes of the process. `python -m tests.servers`."""
