"""What `autoprof run` puts in front of PYTHONPATH; any Python may import it, so it is written for any Python.

It gives way to the sitecustomize that would have been imported without it, starts autoprof under the
interpreter it was meant for, and leaves `sys.path` as it would have been.
"""

import os
import sys


def _is_meant():
    tag = getattr(getattr(sys, "implementation", None), "cache_tag", None)
    return os.environ.get("AUTOPROF_PYTHON") == "%s:%s" % (tag, sys.prefix)


def _give_way(here):
    """Import the next sitecustomize in our place."""
    for item in list(sys.path):
        if item and os.path.abspath(item) == here:
            sys.path.remove(item)
    ours = sys.modules.pop("sitecustomize", None)
    try:
        import sitecustomize  # noqa: F401
    except ImportError as error:
        missing = getattr(error, "name", None) or str(error).rpartition(" ")[2].strip("'")
        if missing != "sitecustomize":
            raise
        sys.modules["sitecustomize"] = ours  # site's import looks for it there


def _boot(root):
    try:
        from autoprof.bootstrap import boot
    except ImportError as error:
        if getattr(error, "name", None) != "autoprof":
            raise
        sys.path.append(root)  # last: everything of the program's own comes first
        from autoprof.bootstrap import boot
    boot()


def _run():
    here = os.path.dirname(os.path.abspath(__file__))
    try:
        _give_way(here)
    finally:
        if _is_meant():
            try:
                _boot(os.path.dirname(os.path.dirname(os.path.dirname(here))))
            except ImportError as error:
                sys.stderr.write("autoprof: not started: %s\n" % error)


_run()
