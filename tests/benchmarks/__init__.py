"""What autoprof costs: ratios and differences of interleaved pairs, outside CI.

    python -m tests.benchmarks            print the table
    python -m tests.benchmarks --check    the same, and exit 1 if a limit is broken

Each figure is the median of five rounds; a round measures both sides of its pair by turns in one process (or, for
start-up, in fresh processes by turns), because the machines have few and noisy cores.
"""
