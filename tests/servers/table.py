"""The rows of the README's table, and which tests each of them stands on."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        server: with its mode.
        what: what the test does to it.
        tests: a pattern for `file::test[parameters]`; all that fit must pass.
        package: whose version is shown; empty for what comes with Python.
        good: what the table says when all is well.
    """

    server: str
    what: str
    tests: str
    package: str = ""
    good: str = "exact"

    def outcome(self, outcomes: Mapping[str, str]) -> str:
        """Return failed, passed or the reason for a skip; empty when none of the row's tests ran."""
        mine = [found for name, found in outcomes.items() if re.fullmatch(self.tests, name)]
        if not mine:
            return ""
        return "failed" if "failed" in mine else max(mine, key=lambda each: each != "passed")


_KILLED = "all that was stored, never more than was made"
_ENDED = "40 requests, SIGTERM"
_GUNICORN = "test_gunicorn::test_every_request_is_counted_once"

ROWS = [
    *(
        Row(
            f"gunicorn -k {mode}{' --preload' if how == 'preload' else ''}",
            _ENDED,
            rf"{_GUNICORN}\[{mode}-{how}\]",
            "gunicorn",
        )
        for mode in ("sync", "gthread", "gevent")
        for how in ("plain", "preload")
    ),
    Row("gunicorn", "SIGINT, SIGQUIT", r"test_gunicorn::test_ended_at_once\[.*", "gunicorn"),
    Row(
        "gunicorn --max-requests 6, also --preload",
        "workers replaced all the time",
        r"test_gunicorn::test_workers_that_are_replaced\[.*",
        "gunicorn",
    ),
    Row("gunicorn", "SIGHUP between two rounds", r"test_gunicorn::test_reloaded_by_sighup", "gunicorn"),
    Row("gunicorn", "both workers killed (-9) and replaced", r"test_gunicorn::test_a_killed.*", "gunicorn"),
    Row(
        "gunicorn",
        "all killed (-9) in the second round",
        r"test_gunicorn::test_all_killed",
        "gunicorn",
        _KILLED,
    ),
    Row("uvicorn", "40 requests, SIGTERM, SIGINT", r"test_uvicorn::test_one_process\[.*", "uvicorn"),
    Row("uvicorn --workers 2", _ENDED, r"test_uvicorn::test_workers", "uvicorn"),
    Row("uvicorn --workers 2", "a worker killed (-9)", r"test_uvicorn::test_a_killed.*", "uvicorn"),
    Row("uvicorn --reload", "an edit between two rounds", r"test_uvicorn::test_reload", "uvicorn"),
    *(
        Row(f"celery -P {pool}", "30 tasks, SIGTERM", rf"test_celery::test_every.*\[{pool}\]", "celery")
        for pool in ("prefork", "threads")
    ),
    Row("celery --max-tasks-per-child 1", "8 tasks", r"test_celery::test_a_process_for_each_task", "celery"),
    Row(
        "celery -P prefork",
        "all killed (-9) in the second round",
        r"test_celery::test_killed",
        "celery",
        _KILLED,
    ),
    *(
        Row(
            f"multiprocessing, {method}",
            "Pool, Process, ProcessPoolExecutor",
            rf"test_processes::test_(pools|a_process_for_each_task)\[(.*-)?{method}\]",
        )
        for method in ("fork", "spawn", "forkserver")
    ),
    Row(
        "multiprocessing",
        "maxtasksperchild=1; forkserver with preload",
        r"test_processes::test_a_(pool_that|forkserver).*",
    ),
    Row(
        "os.fork",
        "by hand; from threads that call; child ends, or becomes another program",
        r"test_exits::test_forked_(by|and).*",
    ),
    Row(
        "os.fork",
        "while our thread imports: no deadlock in the child",
        r"test_exits::test_forked_while.*",
    ),
    *(
        Row(
            f"{name}, monkey-patched",
            "before and after autoprof; 20 greenlets wait in one function",
            rf"test_greenlets::test_.*{name}.*",
            name,
        )
        for name in ("gevent", "eventlet")
    ),
    Row("signals", "TERM, HUP, ABRT and KILL by default action", r"test_exits::test_killed_by_a_signal\[.*"),
    Row(
        "SIGTERM",
        "with a handler that ends the program; taken by sigwait",
        r"test_exits::test_(sigterm_with|a_program_that_waits).*",
    ),
    Row("os._exit", "with and without time to write", r"test_exits::test_(os_exit|at_most.*)", "", _KILLED),
    Row(
        "daemon threads, atexit", "calls while the interpreter ends", r"test_exits::test_(daemon|calls_at).*"
    ),
    Row(
        "2 000 short threads",
        "nothing left in any table",
        r"test_threads::test_t(wo_thousand|hreads_that).*",
    ),
    Row("subinterpreters", "refused, said once", r"test_threads::test_subinterpreters.*"),
]


def packages(python: str) -> dict[str, str]:
    """Return the versions that are installed for an interpreter."""
    ask = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({each.metadata['Name'].lower(): each.version for each in m.distributions()}))"
    )
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(done.stdout)
    return found
