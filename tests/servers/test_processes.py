"""multiprocessing and concurrent.futures, in each of their three ways to make a process; os.fork by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.harness import APPS, Site

Make = Callable[[str], Site]
METHODS = ("fork", "spawn", "forkserver")
COUNT = 6


def ran(measured: Site, kind: str, *preload: str) -> None:
    """Run the program: right result, nothing on stderr."""
    done = measured.run(APPS / "pools.py", kind, str(COUNT), *preload, PYTHONWARNINGS="error")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{sum(range(COUNT)) * 2}\n", "")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["pool", "executor"])
def test_pools(site: Make, name: str, method: str) -> None:
    measured = site("__main__:*")
    ran(measured, f"{name}-{method}")
    measured.check({"__main__:work": COUNT + 2, "__main__:price": COUNT + 2, "__main__:main": 1})


@pytest.mark.parametrize("method", METHODS)
def test_a_process_for_each_task(site: Make, method: str) -> None:
    """Each process ends right after its only call, which is in the store."""
    measured = site("__main__:*")
    ran(measured, f"process-{method}")
    rows = measured.check({"__main__:work": COUNT + 2, "__main__:single": COUNT})
    assert rows["__main__:single"]["processes"] == COUNT


def test_a_pool_that_replaces_its_processes(site: Make) -> None:
    measured = site("__main__:*")
    ran(measured, "recycled-fork")
    measured.check({"__main__:work": COUNT + 2}, processes=COUNT + 1)


def test_a_forkserver_that_has_imported_the_program(site: Make) -> None:
    measured = site("[__main__:*, pools:*]")
    ran(measured, "process-forkserver", "pools")
    measured.check({"__main__:work": COUNT + 2, "__main__:single": COUNT})
