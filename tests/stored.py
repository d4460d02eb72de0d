"""Makes stores for the tests of store, reports and command line."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoprof import store_file
from autoprof.histogram import bucket
from autoprof.store import ProbeDelta, StackDelta, StoreReader, StoreWriter

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
DAY_NS = 24 * HOUR_NS
NOW_NS = 1_800_000_000 * SECOND_NS

HOSTILE = [
    'quote\'s "double" `tick`',
    "line\nbreak\r\ttab",
    "<script>alert(1)</script>&amp;]]>",
    "\x1b[31mred\x1b[0m\x07\x9b",
    "semi;colon;frames",
    "x" * 10_000,
    "lone \udc80 surrogate \ud800",
    "null\x00inside",
    "'; DROP TABLE counts; --",
    "right\u202eto\u202cleft \u2028 \ufffe",
    "",
    "日本語の名前",
]


_made: list[StoreWriter] = []


@pytest.fixture(autouse=True)
def no_open_writers() -> Iterator[None]:
    """Let go of the files of every writer that a test made; import it where `writer` is used."""
    yield
    while _made:
        _made.pop()._disconnect()


def writer(folder: Path | str, run: str = "run-1", pid: int | None = None, **more: object) -> StoreWriter:
    """Return a writer with ordinary bounds."""
    options: dict[str, object] = {
        "service": {"service": "shop"},
        "max_size_bytes": 256 << 20,
        "max_age_ns": 7 * DAY_NS,
        "started_ns": NOW_NS,
        **more,
    }
    made = StoreWriter(str(folder), run=run, pid=pid or os.getpid(), host="test", **options)  # type: ignore[arg-type]
    _made.append(made)
    return made


def delta(
    target: str = "shop:price", calls: int = 10, durations: tuple[int, ...] = (1000, 3000), **more: object
) -> ProbeDelta:
    """Return what a probe counted."""
    counts: dict[int, int] = {}
    for duration_ns in durations:
        counts[bucket(duration_ns)] = counts.get(bucket(duration_ns), 0) + 1
    options: dict[str, object] = {
        "policy": "profile",
        "rule": "rule 1",
        "strategy": "sample",
        "profiled": len(durations),
        "total_ns": sum(durations),
        "max_ns": max(durations, default=0),
        "durations": counts,
        **more,
    }
    return ProbeDelta(target, calls=calls, **options)  # type: ignore[arg-type]


def stack(*frames: str, target: str = "shop:price", samples: int = 1, policy: str = "profile") -> StackDelta:
    """Return a stack, root first."""
    return StackDelta(target, "rule 1", policy, "sample", frames, samples, samples * 10_000_000)


def reader(folder: Path | str) -> StoreReader:
    """Return a reader of one folder."""
    return StoreReader([str(folder)])


def names(folder: Path) -> list[str]:
    """Return the names of the stores in a folder."""
    return [os.path.basename(path) for _, path in store_file.store_files(str(folder))]


def start(script: str, *arguments: str) -> subprocess.Popen[bytes]:
    """Start Python with these helpers imported."""
    head = "import os, sys, time; from tests.stored import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", head + script, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
