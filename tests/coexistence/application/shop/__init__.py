"""A small application: every function of it is profiled at rate 1.0."""
