"""What the issue promises, on real programs: AUTOPROF_CONFIG alone, nothing else changed."""
