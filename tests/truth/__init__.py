"""Correctness against ground truth: programs that know what autoprof ought to find, run as a user runs them.

python -m tests.truth             print the table
python -m tests.truth --check     exit 1 if a bound is broken

Each program runs in a process of its own under a policy file, prints what is true as JSON, and is compared with what the
signals and the reports say. Times and shares are measured inside the same run, by another clock than autoprof's stops: a
noisy machine disturbs both alike.
"""
