"""The stacks of one call, added up by stack as they come: a raw record a sample would not stay small."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import CodeType
    from typing import TypeAlias

    Key: TypeAlias = tuple["int | str", ...]
    Named: TypeAlias = Sequence[tuple["CodeType | None", str]]

STACKS_KEPT = 20_000
AWAIT = "[await]"
"""The leaf of a stack whose call was suspended, waiting for something."""


class CallStacks:
    """Counts the stacks of one call.

    Attributes:
        interval_ns: at which looks are wanted.
        until_ns: nothing is counted from this moment of the monotonic clock on.
        samples: looks that found the call.
        dropped: looks not kept, because the call had more different stacks than STACKS_KEPT.
    """

    __slots__ = ("_table", "dropped", "interval_ns", "samples", "until_ns")

    def __init__(self, interval_ns: int, until_ns: int) -> None:
        self.interval_ns = interval_ns
        self.until_ns = until_ns
        self.samples = self.dropped = 0
        self._table: dict[Key, list[object]] = {}

    def knows(self, key: Key) -> bool:
        """Tell whether a stack needs no naming any more."""
        return key in self._table

    def name(self, key: Key, named: Named) -> None:
        """Say what a new stack consists of.

        Args:
            key: ids of the code objects, leaf first; names for what is no Python function.
            named: for each of them its code, kept so that no id is used twice, and its label.
        """
        if len(self._table) < STACKS_KEPT:
            labels = tuple([label for _, label in reversed(named) if label])
            self._table[key] = [0, 0, labels, [code for code, _ in named]]

    def count(self, key: Key, weight_ns: int) -> None:
        """Add one look, unless it found nothing but autoprof itself."""
        entry = self._table.get(key)
        if entry is not None and not entry[2]:
            return
        self.samples += 1
        if entry is None:
            self.dropped += 1
            return
        entry[0] += 1  # type: ignore[operator]
        entry[1] += weight_ns  # type: ignore[operator]

    def totals(self) -> dict[tuple[str, ...], tuple[int, int]]:
        """Return stack (labels, root first) → samples, nanoseconds."""
        out: dict[tuple[str, ...], tuple[int, int]] = {}
        for samples, weight_ns, labels, _ in list(self._table.values()):
            if labels:
                before = out.get(labels, (0, 0))  # type: ignore[call-overload]
                out[labels] = (before[0] + samples, before[1] + weight_ns)  # type: ignore[index]
        return out
