"""The policy `profile_calls`: how often the target and what it calls were called inside one outermost call."""

from __future__ import annotations

from autoprof import entries, tracer
from autoprof import probe as probes
from autoprof.strategies.call_graph import add_callees

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.callgraph import Graph
    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver


class Calls:
    """Follows a call with the tracer for `callees`; else counts the target's own entries alone."""

    name = "calls"

    def __init__(self, deliver: Deliver) -> None:
        """Write no artefact: the counts go into the event and the report."""

    def forget(self) -> None:
        """Start clean in a forked child."""
        entries.forget()

    def start(self, probe: Probe, flight: Flight) -> Any:
        """Begin to count on this thread.

        Raises:
            Busy: another call is being followed, or another profiler is at work.
            Nested: this is not the outermost call.
        """
        if _is_inside_another(flight):
            raise probes.Nested
        with_callees = probe.options.get("callees", True)
        state = tracer.follow(flight, probe.limit_ns) if with_callees else entries.count(flight)
        if state is None:
            raise probes.Busy("another call is being followed")
        return state

    def stop(self, probe: Probe, flight: Flight, state: Any, duration_ns: int, kept: bool) -> dict[str, Any]:
        """End it; `event` is `calls`."""
        found = state.stop()
        probe.charge(getattr(state, "lost_ns", 0))
        if not kept:
            return {}
        # `or 1`: the entries of a function in C are not seen.
        if isinstance(found, int):
            return {"event": ("calls", {"calls": found or 1}, {"callees": {}})}
        callees = found.targets_inside()
        add_callees(probe, callees)
        return {"event": ("calls", {"calls": _entries(probe, found) or 1}, {"callees": callees})}


def _is_inside_another(flight: Flight) -> bool:
    """Tell whether a call of the same function is open above: one that was not drawn, or found the tool busy."""
    frame = flight.caller
    while frame is not None:
        if frame.f_code is flight.code:
            return True
        frame = frame.f_back
    return False


def _entries(probe: Probe, graph: Graph) -> int:
    # By name too: one target may be several functions, a getter and its setter.
    return sum(
        figures.calls
        for function, figures in graph.functions.items()
        if function == graph.root or function[0] == probe.target
    )
