"""Attacks on the splice: every way that was found to crash or mislead an interpreter with a gate in it."""
