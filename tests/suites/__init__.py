"""Other people's test suites, run with every call of every function of their package profiled.

    python -m tests.suites                                   # everything, on every Python there is
    python -m tests.suites --suite jinja2 --python 3.12      # one cell of the table

Each suite runs twice plainly, which shows its flaky tests, and once under autoprof; the outcomes are compared
test by test. Downloads, environments and results are kept in `.suites/`, which git ignores.
"""
