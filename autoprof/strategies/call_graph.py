"""Every call inside one profiled call, by caller and callee: the same trace, told in four ways."""

from __future__ import annotations

from autoprof import probe as probes
from autoprof import tracer
from autoprof.callgraph import Graph
from autoprof.counting import count_elements
from autoprof.primitives import RLock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver


_WAIT_S = 1.0


class CallGraph:
    """Follows one call at a time with the tracer.

    Without `output` a probe has one file in a process, with the sum of its calls so far; with `output` each call is
    told alone.
    """

    name = "call_graph"
    view = "graph"
    counts_callees = False

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._sums: dict[Probe, Graph] = {}
        self._summing = RLock()

    def forget(self) -> None:
        """Start clean in a forked child: the sums are the parent's, and so is its file."""
        self._sums.clear()
        self._summing = RLock()

    def start(self, probe: Probe, flight: Flight) -> Any:
        """Put the hook on this thread.

        Raises:
            Busy: another call is being followed, or another profiler is at work.
        """
        trace = tracer.follow(flight, probe.limit_ns)
        if trace is None:
            raise probes.Busy("another call is being followed")
        return trace

    def stop(self, probe: Probe, flight: Flight, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
        """Take the hook off and hand the graph on; `profile` is the path of the artefact."""
        graph: Graph = state.stop()
        probe.charge(state.lost_ns)
        if not kept or not graph.functions:
            return {}
        if self.counts_callees:
            add_callees(probe, graph.targets_inside())
        if probe.options.get("output"):
            return {"profile": self._deliver(probe, graph, duration_ns, self.view)}
        # Reentrant, since a collected coroutine can end in the middle, and bounded, since that runs foreign finalizers.
        held = self._summing.acquire(True, _WAIT_S)
        try:
            whole = self._sums.get(probe)
            if whole is None:
                whole = self._sums[probe] = Graph()
            whole.add(graph)
            return {"profile": self._deliver(probe, whole, duration_ns, self.view)}
        finally:
            if held:
                self._summing.release()


class Fprof(CallGraph):
    """The same, shown function by function with callers and callees."""

    name = "fprof"
    view = "details"


class Eprof(CallGraph):
    """The same, shown as time per function."""

    name = "eprof"
    view = "functions"


class Cprof(CallGraph):
    """The same, shown as counts: no times."""

    name = "cprof"
    view = "counts"
    counts_callees = True


def add_callees(probe: Probe, counts: dict[str, int]) -> None:
    """Add to what the flusher takes from a probe, whatever other threads do meanwhile."""
    for target, count in counts.items():
        # As in `Probe.record`: `+=` on a dict switches no thread, a `get` in between would.
        while count:
            try:
                probe.callees[target] += count
                count = 0
            except KeyError:
                one = (target,)  # before the look at the table, as in `Probe.record`
                probe.prepare()
                count_elements(probe.callees, one)
                count -= 1
