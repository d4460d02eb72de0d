"""A module whose function `main` is followed, through both back ends: what the tests of the tracer share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from autoprof import arbiter, guard, session, tracer
from autoprof.callgraph import Figures, Graph
from autoprof.probe import Probe
from tests import mechanisms

Found = list[Graph]


class Traced:
    """A module whose function `main` is followed; `graphs` holds what each call gave."""

    def __init__(self, module: Any, graphs: Found) -> None:
        self.module = module
        self.graphs = graphs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @property
    def probe(self) -> Probe:
        assert session.current is not None
        return session.current.installer.probes[f"{self.module.__name__}:main", "profile"]

    @property
    def graph(self) -> Graph:
        (found,) = self.graphs
        return found

    def calls(self, graph: Graph | None = None) -> dict[str, int]:
        """Calls by name, without the module's own."""
        prefix = f"{self.module.__name__}:"
        found = (graph or self.graph).functions.items()
        return {target.removeprefix(prefix): figures.calls for (target, *_), figures in found}

    def figures(self, name: str) -> Figures:
        """The figures of one function of the module."""
        target = name if ":" in name else f"{self.module.__name__}:{name}"
        (found,) = [each for function, each in self.graph.functions.items() if function[0] == target]
        return found

    def edges(self) -> set[tuple[str, str]]:
        """Who called whom."""
        prefix = f"{self.module.__name__}:"
        return {(a[0].removeprefix(prefix), b[0].removeprefix(prefix)) for a, b in self.graph.edges}


Make = Callable[..., Traced]
BACK_ENDS = ["spliced_at_import", "decorated_at_import"]


def makes(mechanism: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Be the body of a fixture: gives `make(source, **options)`, stops everything afterwards."""
    graphs: Found = []
    real = tracer.graph_of

    def graph_of(trace: tracer.Trace) -> Graph:
        graphs.append(real(trace))
        return graphs[-1]

    monkeypatch.setattr(tracer, "graph_of", graph_of)

    def make_traced(source: str, others: str = "", **options: Any) -> Traced:
        name = "subject_traced"
        start = mechanisms.policy(name, str(tmp_path / "out"))
        rule = {"match": f"{name}:main", "policy": "profile", "strategy": "call_graph", "rate": 1.0}
        start["rules"] = [{**rule, **options}]
        if others:
            start["rules"].append({"match": f"{name}:{others}", "policy": "profile", "rate": 1.0})
        return Traced(mechanisms.MECHANISMS[mechanism](source, name, start), graphs)

    yield make_traced
    session.stop()
    sys.modules.pop("subject_traced", None)
    assert sys.getprofile() is None and arbiter.holder is None
    assert not guard.internal_errors.pop("tracer", 0)
