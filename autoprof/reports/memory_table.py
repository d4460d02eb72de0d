"""What one call did to the process's memory, as tables for a terminal."""

from __future__ import annotations

from autoprof.reports.model import clean
from autoprof.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

_FIGURES = (("rss_bytes", "rss"), ("blocks", "Python blocks"), ("gc_allocations", "gc allocations"))


def render_memory(data: Mapping[str, Any], *, title: str) -> str:
    """Return the report; other threads' memory is in all of its figures."""
    return "\n".join(_lines(data, title)) + "\n"


def _lines(data: Mapping[str, Any], title: str) -> Iterator[str]:
    yield f"{clean(title)}, {format_duration(data['duration_ns'])}"
    yield "what all threads of the process did meanwhile is in these figures"
    yield ""
    rows = [("", "BEFORE", "AFTER", "DELTA")]
    for key, name in _FIGURES:
        shown = _signed_size if key == "rss_bytes" else _signed
        rows.append((name, *_change(data["types"][key], shown)))
    yield from _columns(rows)
    if data["peak_bytes"] is not None:
        yield f"allocated in the call at most at a time: {format_size(data['peak_bytes'])}"
    yield ""
    yield "allocated in the call and alive at its end"
    yield from _sites(data)
    yield ""
    yield "live objects that gc knows"
    yield from _objects(data)


def _sites(data: Mapping[str, Any]) -> Iterator[str]:
    if data["sites"] is None:
        yield f"  not known: {clean(data['sites_note'])}"
        return
    rows = [("  BYTES", "BLOCKS", "LINE")]
    rows += [
        (f"  {_signed_size(each['size_bytes'])}", _signed(each["blocks"]), _place(each))
        for each in data["sites"]
    ]
    yield from _columns(rows, last_left=True) if len(rows) > 1 else ["  nothing"]


def _place(site: Mapping[str, Any]) -> str:
    return f"{clean(site['file'])}:{site['line']}"


def _objects(data: Mapping[str, Any]) -> Iterator[str]:
    if data["objects"] is None:
        yield f"  not known: {clean(data['objects_note'])}"
        return
    rows = [("  TYPE", "BEFORE", "AFTER", "DELTA")]
    rows += [(f"  {clean(each['type'])}", *_change(each, _signed)) for each in data["objects"]]
    yield from _columns(rows) if len(rows) > 1 else ["  as before"]


def _change(change: Mapping[str, int] | None, shown: Callable[[int], str]) -> tuple[str, str, str]:
    if change is None:
        return ("-", "-", "-")
    before, after = (shown(change[key]).lstrip("+") for key in ("before", "after"))
    return (before, after, shown(change["delta"]))


def _signed(number: int) -> str:
    return f"{number:+,}" if number else "0"


def _signed_size(size_bytes: int) -> str:
    sign = "-" if size_bytes < 0 else "+" if size_bytes else ""
    return sign + format_size(abs(size_bytes))


def _columns(rows: Sequence[tuple[str, ...]], *, last_left: bool = False) -> Iterator[str]:
    """Yield lines with the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [row[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        if last_left:
            cells[-1] = row[-1]
        yield "  ".join(cells).rstrip()
