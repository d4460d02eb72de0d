"""A module whose calls are sampled, by hand where the test says so: what the tests of the sampler share."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from autoprof.sampler import recorder
from tests import mechanisms
from tests.mechanisms import Loaded

Load = Callable[..., Loaded]
SOURCE = """
def outer(act):
    return inner(act)
def inner(act):
    return act()
"""


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    yield from mechanisms.loads(tmp_path)


@pytest.fixture(params=["spliced_at_import", "decorated_at_import"])
def loaded(request: pytest.FixtureRequest, load: Load) -> Callable[..., Loaded]:
    return lambda source=SOURCE, **options: load(request.param, source, **options)


@pytest.fixture
def by_hand() -> Iterator[Callable[[], None]]:
    """Give `tick`; the recorder's own thread is kept out."""
    recorder.stop(2.0)
    recorder.drain()
    recorder.idle = False
    yield recorder.tick
    recorder.drain()
    recorder.idle = True


def stacks(target: str) -> dict[tuple[str, ...], int]:
    """Return the qualified names of each stack of a target, and how many samples it has."""
    found: dict[tuple[str, ...], int] = {}
    for (probe, stack), (samples, _) in recorder.drain().items():
        if probe.target == target:
            names = tuple(each.partition(" ")[0].rpartition(":")[2] for each in stack)
            names = tuple(each.rpartition("<locals>.")[2] for each in names)
            names = names[: names.index("<lambda>") + 1] if "<lambda>" in names else names
            found[names] = found.get(names, 0) + samples
    return found


def looked_at(times: int) -> Callable[[], None]:
    """Return what stays until the recorder has looked so often: on a machine at full load a thread may wait long."""

    def stay() -> None:
        deadline = time.monotonic() + 10
        enough = recorder.ticks + times
        while recorder.ticks < enough and time.monotonic() < deadline:
            time.sleep(0.001)

    return stay
