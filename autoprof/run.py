"""One start of an application: its id and the folder it was started in, inherited by its children."""

from __future__ import annotations

import os

RUN_VARIABLE = "AUTOPROF_RUN"


def run_and_folder() -> tuple[str, str]:
    """Return the run's id and the start folder, inherited from the application's first process."""
    run, _, folder = os.environ.get(RUN_VARIABLE, "").partition("@")
    if run and os.path.isabs(folder):
        return run, folder
    return new_run(), os.getcwd()


def new_run() -> str:
    """Return an id for one start of an application."""
    import time

    return f"{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}-{os.urandom(3).hex()}"


def inherited_run() -> bool:
    """Tell whether another process of the application has started this one, and has told what there is to tell."""
    run = os.environ.get(RUN_VARIABLE, "").partition("@")[0].split("-")
    return len(run) > 1 and run[1] != str(os.getpid())
