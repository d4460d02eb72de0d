"""`python -m autoprof` is the command `autoprof`."""

from autoprof.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
