"""Ways to measure a call: one file each."""
