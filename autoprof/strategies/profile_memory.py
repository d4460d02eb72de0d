"""What a call does to the process's memory, for 20 µs: rss, Python blocks, gc allocations, before and after."""

from __future__ import annotations

from gc import get_count, get_threshold
from sys import getallocatedblocks, getrefcount, getsizeof, version_info

from autoprof import clock, host
from autoprof.counting import count_elements
from autoprof.flight import UNKNOWN

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.flight import Flight
    from autoprof.probe import Probe
    from autoprof.strategies import Deliver

    Change = dict[str, int]
    """before, after, delta."""

BLOCKS_MAX_NS = 6_000
"""Longest reading of the block count, twice a call: it walks all arenas, so a large heap makes it slow."""

OURS = {False: (6, -2) if version_info < (3, 12) else (8, 0), True: (11, 2)}
"""Generator-like? → blocks and gc allocations that measuring itself keeps between the readings.

Exact, but for small integers, where a function has one probe; spliced generators keep up to three more of each.
"""

_SLOW_IN_A_ROW = 4
_LOOK_AGAIN_NS = 10_000_000_000

_FRESH = 4
"""References to a result that only the caller will hold, counted from here; the same for both ways of rewriting."""

_BLOCK_MAX_BYTES = 512
"""Larger objects are malloc's, and no blocks."""

Reading = tuple["int | None", "int | None", int]
"""rss in bytes, Python blocks, gc allocations."""


class MemoryReader:
    """Reads the figures of this process; other threads' memory is in them.

    `blocks` is None while reading it takes more than `blocks_max_ns`, but for one call in ten seconds: so the sums of a
    large process have some exact changes too, and it finds out when that is over.
    """

    def __init__(self, blocks_max_ns: int = BLOCKS_MAX_NS) -> None:
        self._blocks_max_ns = blocks_max_ns
        self._rss = host.RssReader()
        self._slow = 0
        self._again_ns = 0

    def before(self) -> Reading:
        """Read before the call: what we allocate ourselves comes first."""
        rss_bytes = self._rss.read()
        blocks = self._blocks()
        return rss_bytes, blocks, gc_allocations()

    def after(self, generator_like: bool) -> Reading:
        """Read after the call, in the opposite order, less what we ourselves keep."""
        allocations = gc_allocations()
        blocks = self._blocks()
        our_blocks, our_allocations = OURS[generator_like]
        if blocks is not None:
            blocks -= our_blocks
        return self._rss.read(), blocks, allocations - our_allocations

    def _blocks(self) -> int | None:
        began_ns = clock.monotonic_ns()
        if self._slow >= _SLOW_IN_A_ROW:
            if began_ns < self._again_ns:
                return None
            self._slow = _SLOW_IN_A_ROW - 2  # before and after one call
        blocks = getallocatedblocks()
        if clock.monotonic_ns() - began_ns <= self._blocks_max_ns:
            self._slow = 0
        else:  # once may be another thread's turn
            self._slow += 1
            self._again_ns = began_ns + _LOOK_AGAIN_NS
        return blocks

    def forget(self) -> None:
        """Start clean in a forked child."""
        self._rss.forget()

    def close(self) -> None:
        """Give the descriptor of rss back."""
        self._rss.close()


def gc_allocations() -> int:
    """Return container objects allocated less those freed since the last full collection, estimated.

    From `gc.get_count()`: the youngest generation's count, and a threshold's worth for each collection since. A full
    collection in between makes the difference of two readings negative.
    """
    young, middle, old = get_count()
    first, second, _ = get_threshold()
    return young + first * (middle + (second + 1) * old)


def changes(before: Reading, after: Reading) -> dict[str, Change | None]:
    """Return the event's `types`: what each figure was, is, and gained; None where it was not read."""
    names = ("rss_bytes", "blocks", "gc_allocations")
    return {name: _change(*pair) for name, *pair in zip(names, before, after, strict=True)}


def _change(before: int | None, after: int | None) -> Change | None:
    if before is None or after is None:
        return None
    return {"before": before, "after": after, "delta": after - before}


def result_blocks(flight: Flight) -> int | None:
    """Return how many blocks belong to what a call has returned and only its caller holds; None where unknown.

    They are alive when the call ends, and no leak. Unknown: a container or object made by the call, an exception, and
    what a generator or coroutine returns.
    """
    if flight.returned is UNKNOWN:
        return None
    if getrefcount(flight.returned) > _FRESH:
        return 0
    kind = type(flight.returned)
    if kind is float:
        return 0  # from the free list
    if kind in (str, bytes, int):
        return 1 if getsizeof(flight.returned) <= _BLOCK_MAX_BYTES else 0
    return None


def found(probe: Probe, flight: Flight, types: dict[str, Any]) -> dict[str, Any]:
    """Add the changes to the probe's sums; return what `complete` and the event `memory` say."""
    returned = None if types["blocks"] is None else result_blocks(flight)
    if returned is not None:
        probe.prepare()
        _add(probe.memory_counts, "blocks", types["blocks"]["delta"] - returned)
        _add(probe.memory_counts, "blocks_calls", 1)
    rss = types["rss_bytes"]
    if rss is None:
        return {}
    delta = rss["delta"]
    # No call in between: exact under threads.
    probe.memory_delta_bytes = delta + (probe.memory_delta_bytes or 0)
    out: dict[str, Any] = {"memory_delta": delta}
    threshold = probe.options.get("threshold_bytes")
    if threshold is None or delta > threshold:
        out["event"] = ("memory", {**rss, "types": types}, {})
    return out


def _add(sums: dict[str, int], name: str, delta: int) -> None:
    try:
        sums[name] += delta  # switches no thread
    except KeyError:
        count_elements(sums, (name,))
        sums[name] += delta - 1


class ProfileMemory:
    """Measures any number of calls at once."""

    name = "memory"

    def __init__(self, deliver: Deliver) -> None:
        self._reader = MemoryReader()

    def start(self, probe: Probe, flight: Flight) -> Reading:
        """Read the figures."""
        return self._reader.before()

    def stop(
        self, probe: Probe, flight: Flight, state: Reading, duration_ns: int, kept: bool
    ) -> dict[str, Any]:
        """Read them again; the event `memory` unless the call grew by less than `threshold`."""
        after = self._reader.after(flight.gate.generator_like)
        return found(probe, flight, changes(state, after)) if kept else {}

    def forget(self) -> None:
        """Start clean in a forked child."""
        self._reader.forget()

    def close(self) -> None:
        """Give back what the session holds open."""
        self._reader.close()
