"""Where profiles go: one file, one destination."""
