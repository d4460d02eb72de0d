"""Celery's prefork pool: its workers are forked by billiard and end by os._exit."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.servers.harness import Site, needs

TASKS = 30
WANTED = {"tasks:order": TASKS, "tasks:price": TASKS}
WORKER = ("-m", "celery", "-A", "tasks", "worker", "-l", "INFO", "--without-gossip", "--without-mingle")

Make = Callable[[str], Site]


def ordered(measured: Site, count: int = TASKS) -> None:
    """Send tasks from a process without autoprof and wait for all results."""
    folder = {"TASKS_FOLDER": str(measured.folder / "tasks"), "AUTOPROF_ENABLED": "0"}
    done = measured.run("-m", "send_tasks", str(count), **folder)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_every_task_is_counted_once(site: Make, pool: str) -> None:
    needs("celery")
    measured = site("tasks:*")
    folder = {"TASKS_FOLDER": str(measured.folder / "tasks")}
    with measured.started(*WORKER, "-P", pool, "-c", "2", **folder) as worker:
        worker.wait_until_said(r"ready\.")
        ordered(measured)
        assert worker.stop(signal.SIGTERM) == 0
        assert "internal error" not in worker.said()
    measured.check(WANTED)


def test_a_process_for_each_task(site: Make) -> None:
    """Each worker process ends by os._exit right after its only task."""
    needs("celery")
    measured = site("tasks:*")
    folder = {"TASKS_FOLDER": str(measured.folder / "tasks")}
    with measured.started(*WORKER, "-c", "2", "--max-tasks-per-child", "1", **folder) as worker:
        worker.wait_until_said(r"ready\.")
        ordered(measured, 8)
        assert worker.stop(signal.SIGTERM) == 0
    measured.check(dict.fromkeys(WANTED, 8), processes=8)


def test_killed(site: Make) -> None:
    needs("celery")
    measured = site("tasks:*")
    folder = {"TASKS_FOLDER": str(measured.folder / "tasks")}
    with measured.started(*WORKER, "-c", "2", **folder) as worker:
        worker.wait_until_said(r"ready\.")
        ordered(measured)
        measured.wait_for_calls(WANTED)
        ordered(measured)
        worker.end()
    found = measured.calls()["tasks:order"]
    assert TASKS <= found <= 2 * TASKS
