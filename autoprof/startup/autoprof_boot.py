"""What Python 3.15 and later call at start (PEP 829): a callable is asked for there, so one small module.

It lies beside the package, because importing anything from `autoprof` would run the package's own `__init__`.
Without `AUTOPROF_CONFIG` this file and `os` are all that is ever loaded.
"""

import os


def boot():
    """Start autoprof if the environment asks for it; never raise."""
    if not os.environ.get("AUTOPROF_CONFIG"):
        return
    if os.environ.get("AUTOPROF_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return
    try:
        from autoprof.bootstrap import boot as start
    except ImportError:
        return
    start()
