"""One call's memory in detail: the figures of `profile_memory`, live objects by type, allocation sites.

Costs, for the process and not only for the call: every allocation is traced (the call is several times slower, more
where it allocates much), and all objects that gc knows are counted before and after it (10 to 20 ms per 100 000).
"""

from __future__ import annotations

import gc
import sys

from autoprof import allocations, clock
from autoprof import probe as probes
from autoprof.counting import count_elements
from autoprof.sampler import recorder
from autoprof.strategies.profile_memory import MemoryReader, changes, found

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver
    from autoprof.strategies.profile_memory import Reading

SITES_KEPT = 25
TYPES_KEPT = 25
COUNT_MAX_NS = 200_000_000
"""Longest count of the live objects, in processor time; after a longer one they are not counted any more."""

BLOCKS_MAX = 5_000_000
"""Nor are they with more Python blocks than this: some 500 ms, during which no other thread runs."""

OURS_MAX = 10
"""Changes smaller than this of types that measuring uses itself are left out: they may be ours."""

_OUR_MODULES = frozenset(("", "functools", "weakref"))
_BLOCKS_MAX_NS = 2_000_000
_name_of = vars(type)["__qualname__"].__get__
_module_of = vars(type)["__module__"].__get__


class _State:
    """What is known of a call at its start."""

    __slots__ = ("objects", "reading", "trace")

    reading: Reading
    objects: dict[str, int] | None
    trace: allocations.Trace


class Memory:
    """Measures one call at a time."""

    name = "memory"

    def __init__(self, deliver: Deliver) -> None:
        self._deliver = deliver
        self._reader = MemoryReader(blocks_max_ns=_BLOCKS_MAX_NS)
        self._objects_note = ""

    def start(self, probe: Probe, flight: Flight) -> _State:
        """Count the live objects, start to trace, read the figures last.

        Raises:
            Busy: another call is being traced.
        """
        trace = allocations.begin()
        if trace is None:
            raise probes.Busy("another call's memory is being traced")
        try:
            state = _State()
            state.trace = trace
            state.objects = self._count_objects()
            recorder.deadlines[trace] = (clock.monotonic_ns() + probe.limit_ns, trace.end)
            state.reading = self._reader.before()
        except BaseException:
            recorder.deadlines.pop(trace, None)
            trace.end("the call could not be measured")
            raise
        return state

    def stop(
        self, probe: Probe, flight: Flight, state: _State, duration_ns: int, kept: bool
    ) -> dict[str, Any]:
        """Read the figures first, end the trace, count again; `profile` is the path of the artefact."""
        after = self._reader.after(flight.gate.generator_like)
        recorder.deadlines.pop(state.trace, None)
        objects = self._grown(state.objects) if kept else None
        state.trace.end("" if kept else "not wanted")
        if not kept:
            return {}
        types = changes(state.reading, _without_tracer(after, state.reading, state.trace.tracer_bytes))
        out = found(probe, flight, types)
        sites = state.trace.sites()
        data = {
            "duration_ns": duration_ns,
            "types": types,
            "peak_bytes": state.trace.peak_bytes,
            "sites": None if sites is None else _largest(sites),
            "sites_note": state.trace.note,
            "objects": objects,
            "objects_note": self._objects_note,
        }
        out["profile"] = self._deliver(probe, data, duration_ns, "memory")
        return out

    def _count_objects(self) -> dict[str, int] | None:
        """Return the number of live objects by type; None, with `_objects_note`, where that costs too much."""
        if self._objects_note:
            return None
        if sys.getallocatedblocks() > BLOCKS_MAX:
            self._objects_note = "there are too many objects to be counted"
            return None
        began_ns = clock.thread_ns()
        counts: dict[type, int] = {}
        # In C from end to end: while the list lives, objects of other threads would die late, in ours.
        count_elements(counts, map(type, gc.get_objects()))
        out: dict[str, int] = {}
        for each, count in counts.items():
            name = _type_name(each)
            out[name] = out.get(name, 0) + count
        if clock.thread_ns() - began_ns > COUNT_MAX_NS:
            self._objects_note = "counting the objects took too long"
        return out

    def _grown(self, before: dict[str, int] | None) -> list[dict[str, Any]] | None:
        """Return the types of which there are most more (or fewer) objects than before."""
        after = None if before is None else self._count_objects()
        return None if after is None or before is None else _most_changed(before, after)

    def forget(self) -> None:
        """Start clean in a forked child."""
        recorder.deadlines.clear()
        allocations.forget()
        self._reader.forget()

    def close(self) -> None:
        """Give back what the session holds open."""
        self._reader.close()


def _type_name(each: type) -> str:
    """Return a type's name without running its metaclass's code."""
    module = _module_of(each) if "__module__" not in vars(each) else vars(each)["__module__"]
    name = str(_name_of(each))
    return name if module == "builtins" or type(module) is not str else f"{module}.{name}"


def _most_changed(before: dict[str, int], after: dict[str, int]) -> list[dict[str, Any]]:
    deltas = {name: after.get(name, 0) - before.get(name, 0) for name in before.keys() | after.keys()}
    chosen = [
        (-abs(delta), name)
        for name, delta in deltas.items()
        if not name.startswith("autoprof.")
        and abs(delta) >= (OURS_MAX if name.rpartition(".")[0] in _OUR_MODULES else 1)
    ]
    return [
        {
            "type": name,
            "before": before.get(name, 0),
            "after": after.get(name, 0),
            "delta": deltas[name],
        }
        for _, name in sorted(chosen)[:TYPES_KEPT]
    ]


def _without_tracer(after: Reading, before: Reading, tracer_bytes: int) -> Reading:
    """Return a reading without the tracer's tables, as far as they can have made rss grow."""
    rss_bytes, blocks, gc_allocations = after
    if rss_bytes is None or before[0] is None or rss_bytes <= before[0]:
        return after
    return max(before[0], rss_bytes - tracer_bytes), blocks, gc_allocations


def _largest(sites: allocations.Sites) -> list[dict[str, Any]]:
    sizes, counts = sites
    chosen = sorted(sizes, key=lambda place: (-abs(sizes[place]), place))[:SITES_KEPT]
    rows = []
    for place in chosen:
        file, _, line = place.rpartition(":")
        rows.append({"file": file, "line": int(line), "size_bytes": sizes[place], "blocks": counts[place]})
    return rows
