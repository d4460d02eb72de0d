"""The door between site and autoprof: called by the `.pth` line, from Python 3.15 on by the `.start` file.

It lies beside the package because importing anything from `autoprof` would run the package's own `__init__`.
Without `AUTOPROF_CONFIG` this file and `os` are all that is ever loaded, and before 3.15 not even this file.
"""

import os

_told = False


def boot():
    """Start autoprof if the environment asks for it; never raise."""
    if not os.environ.get("AUTOPROF_CONFIG"):
        return
    if os.environ.get("AUTOPROF_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return
    try:
        from autoprof.bootstrap import boot as start
    except ImportError as error:
        if error.name != "autoprof":  # the package is not gone, it is another one or broken
            _tell(error)
        return
    start()


def _tell(error):
    import sys

    global _told
    if sys.stderr is not None and not _told:  # site reads the files of a virtual environment twice
        _told = True
        sys.stderr.write(
            f"autoprof: not started: {error} (this is 'autoprof-hook'; is the unrelated distribution "
            "'autoprof' installed as well?)\n"
        )
