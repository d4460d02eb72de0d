"""Put instructions in front of some of a body's own: jumps, exception table and location table follow.

What is put in front of an instruction stands at its old place for whoever jumps there, and has its location, so that
tracers see no line more and no line less.

Source: `Objects/locations.md`, `Python/assemble.c` of CPython.
"""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

from autoprof.rewrite import table
from autoprof.rewrite.assemble import ExceptionEntry
from autoprof.rewrite.table import CACHE_UNITS, OPCODES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_EXTENDED = OPCODES["EXTENDED_ARG"]
_CACHES = {OPCODES[name]: units for name, units in CACHE_UNITS.items() if units}
_ONE_LINE, _NO_COLUMNS, _LONG = range(10, 13), 13, 14

Jump = tuple[int, int, int, int]
"""Unit of the first EXTENDED_ARG (or of the jump itself), unit of the jump, unit its delta counts from, and target."""


class Places:
    """Where the units of a body go when others are put between them: each insertion is in front of a unit."""

    def __init__(self, insertions: dict[int, int]) -> None:
        self.units = sorted(insertions)
        self.sums = [0, *accumulate(insertions[each] for each in self.units)]

    def __getitem__(self, unit: int) -> int:
        """Return the new place of a unit; of one with an insertion, the place where the insertion starts."""
        return unit + self.sums[bisect_left(self.units, unit)]


def scan(raw: bytes, wanted: frozenset[int]) -> tuple[list[tuple[int, int, int]], list[Jump]]:
    """Return (first unit, opcode, argument) of the wanted instructions, and the jumps."""
    found: list[tuple[int, int, int]] = []
    jumps: list[Jump] = []
    directions, caches = table.JUMPS, _CACHES
    unit = extended = 0
    start = -1
    end = len(raw) >> 1
    while unit < end:
        opcode = raw[2 * unit]
        if opcode == _EXTENDED:
            start = unit if start < 0 else start
            extended = extended << 8 | raw[2 * unit + 1]
            unit += 1
            continue
        after = unit + 1 + caches.get(opcode, 0)
        if opcode in directions:
            delta = (extended << 8 | raw[2 * unit + 1]) * directions[opcode]
            jumps.append((unit if start < 0 else start, unit, after, after + delta))
        elif opcode in wanted:
            found.append((unit if start < 0 else start, opcode, extended << 8 | raw[2 * unit + 1]))
        unit = after
        extended, start = 0, -1
    return found, jumps


def settle(insertions: dict[int, int], jumps: Iterable[Jump]) -> tuple[Places, dict[int, tuple[int, int]]]:
    """Give jumps that have become too long their EXTENDED_ARGs, which makes others longer, until all fit.

    Args:
        insertions: unit → units put in front of it; grows.

    Returns:
        The places, and for each jump that changes: its first unit → (its old end, its new argument).
    """
    own: dict[int, int] = {}
    while True:
        places = Places(insertions)
        changed: dict[int, tuple[int, int]] = {}
        grown = False
        for start, unit, after, target in jumps:
            delta = abs(places[target] - places[after])
            if delta == abs(target - after):
                continue
            needed = 1 if delta < 256 else (delta.bit_length() + 7) >> 3
            growth = needed - (unit - start + 1)
            if growth > own.get(start, 0):
                insertions[start] = insertions.get(start, 0) + growth - own.get(start, 0)
                own[start] = growth
                grown = True
            changed[start] = (unit, delta)
        if not grown:
            return places, changed


def copy(
    raw: bytes,
    pieces: dict[int, bytes],
    insertions: dict[int, int],
    changed: dict[int, tuple[int, int]],
) -> bytes:
    """Return the body with the pieces in front of their units, and with jumps' new arguments."""
    out = bytearray()
    position = 0
    for start in sorted({*pieces, *changed}):
        out += raw[2 * position : 2 * start]
        position = start
        piece = pieces.get(start, b"")
        out += piece
        if start in changed:
            unit, delta = changed[start]
            width = unit - start + 1 + insertions.get(start, 0) - (len(piece) >> 1)
            for place in range(width - 1, 0, -1):
                out += bytes((_EXTENDED, delta >> (8 * place) & 255))
            out += bytes((raw[2 * unit], delta & 255))
            position = unit + 1
    out += raw[2 * position :]
    return bytes(out)


def move_entries(entries: Iterable[ExceptionEntry], places: Places, deeper: int) -> list[ExceptionEntry]:
    """Return a body's exception entries at their new places, with `deeper` more values beneath the stack."""
    moved = []
    for start, length, target, depth in entries:
        new_start = places[start]
        moved.append((new_start, places[start + length] - new_start, places[target], depth + 2 * deeper))
    return moved


def stretch_locations(locations: bytes, insertions: dict[int, int]) -> bytes:
    """Return a location table in which what is put in front of a unit has that unit's location."""
    out = bytearray()
    wanted = sorted(insertions)
    following = 0
    start = 0
    unit = 0
    size = len(locations)
    while start < size:
        first = locations[start]
        end = start + 1
        while end < size and not locations[end] & 128:
            end += 1
        units = (first & 7) + 1
        unit += units
        added = 0
        while following < len(wanted) and wanted[following] < unit:
            added += insertions[wanted[following]]
            following += 1
        if added:
            _write(out, first >> 3 & 15, locations[start + 1 : end], units + added)
        else:
            out += locations[start:end]
        start = end
    return bytes(out)


def _write(out: bytearray, kind: int, payload: bytes, units: int) -> None:
    """Write an entry of any length: the first part as it was, the others with a line delta of 0."""
    while units:
        part = min(units, 8)
        out.append(128 | kind << 3 | part - 1)
        out += payload
        units -= part
        if kind in _ONE_LINE:
            kind = _ONE_LINE[0]
        elif kind in (_NO_COLUMNS, _LONG):
            payload = b"\0" + payload[_first_length(payload) :]


def _first_length(payload: bytes) -> int:
    """Return how many bytes the first variable-length number of a payload takes."""
    length = 1
    while payload[length - 1] & 64:
        length += 1
    return length
