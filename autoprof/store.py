"""The store: where measuring ends and reading begins.

One SQLite file in the output folder, shared by all processes of an application. A `StoreWriter` in each of
them adds batches of deltas; a `StoreReader`, usually in another program, sums them up.

    store_records   the shapes that go in and come out
    store_file      names, schema and its history, permissions, opening
    store_batch     one batch on its way into the tables
    store_bounds    keeps the file within its size and age
    store_writer    StoreWriter: transactions, waiting, damaged files, forks
    store_tables    the tables of an open file, for readers
    store_merge     adds up files and processes
    store_reader    StoreReader: finds the files, picks runs
"""

from __future__ import annotations

from autoprof.store_records import (
    Artefact,
    ProbeDelta,
    ProbeRow,
    ProbeState,
    ProcessRow,
    ReportData,
    RunInfo,
    StackDelta,
)
from autoprof.store_writer import StoreWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.store_reader import StoreReader

__all__ = [
    "Artefact",
    "ProbeDelta",
    "ProbeRow",
    "ProbeState",
    "ProcessRow",
    "ReportData",
    "RunInfo",
    "StackDelta",
    "StoreReader",
    "StoreWriter",
]


def __getattr__(name: str) -> object:
    if name == "StoreReader":  # an application that is measured only writes
        from autoprof.store_reader import StoreReader

        return StoreReader
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
