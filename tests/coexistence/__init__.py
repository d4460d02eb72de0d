"""Other tools and autoprof in one process, at the same time: does each still report what it reports alone?

    python -m tests.coexistence                  the table of the README, on every Python there is
    python -m tests.coexistence --python 3.12    one version
    python -m pytest tests/coexistence           the same rows as tests, on this Python

The tools are installed once per Python in `.coexistence/`, an environment that ignores itself in git.
"""
