"""Our flame graph: one SVG, root on top, widths proportional to weights.

Readable without its script: every frame has a tooltip, names are cut to fit. With it: click or Enter
zooms, arrow keys walk the frames, Escape goes back, a field searches. Nothing outside the file is used.
"""

from __future__ import annotations

import zlib
from html import escape

from autoprof.reports.flame_script import SCRIPT, STYLE
from autoprof.reports.model import Tree, all_stacks, clean, plural, short_name
from autoprof.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.reports.model import Node, Stacks
    from autoprof.store_records import ReportData

DEPTH_LIMIT = 256
FRAMES_LIMIT = 20_000
_WIDTH = 1200
_ROW = 17
_TOP = 58
_CHARACTER = 6.65
_NARROWEST = 0.3


def render(data: ReportData) -> str:
    """Return one graph of every row, side by side, each below its target's name."""
    return render_stacks(all_stacks(data), title=f"autoprof run {data.run}", unit="samples")


def render_stacks(stacks: Stacks, *, title: str, unit: str = "ns") -> str:
    """Return a whole SVG file.

    Args:
        stacks: (frame labels root first, weight); equal stacks are added up.
        title: Shown above it.
        unit: Of the weights: `ns`, `samples` or `bytes`.
    """
    drawing = fragment(stacks, title=title, unit=unit)
    inside = f"<style>{STYLE}</style>"
    script = f"<script><![CDATA[\n{SCRIPT}\n]]></script>"
    opening, rest = drawing.split(">", 1)
    body = rest.removesuffix("</svg>")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{opening}>{inside}{body}{script}</svg>\n'


def fragment(stacks: Stacks, *, title: str, unit: str, frames_limit: int = FRAMES_LIMIT) -> str:
    """Return only the `<svg>` element, for a page that brings STYLE and SCRIPT itself."""
    graph = Tree(stacks, DEPTH_LIMIT, _NARROWEST / _WIDTH)
    whole = graph.root.total
    shown = _lightest_first_out(list(graph.nodes()) if whole else [], frames_limit)
    left_out = graph.left_out + sum(1 for _ in graph.nodes()) - len(shown)
    drawn = [_frame(node, whole, unit) for node in shown]
    notes = _notes(graph, unit, left_out)
    rows = max((node.depth + 1 for node in shown), default=0)
    height = _TOP + rows * _ROW + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="autoprof-flame" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="group" aria-label="{escape(clean(title))}, flame graph">'
        f'<text class="head" x="4" y="22">{escape(_cut(clean(title), 100))}</text>'
        f'<text class="note info" x="4" y="44">{escape(notes)}</text>\n' + "".join(drawn) + "</svg>"
    )


def amount(weight: int, unit: str) -> str:
    """Return a weight for people."""
    if unit == "ns":
        return format_duration(weight)
    return format_size(weight) if unit == "bytes" else plural(weight, "sample")


def _lightest_first_out(nodes: list[Node], limit: int) -> list[Node]:
    """Return at most `limit` nodes; a node is never lighter than those below it, so none hangs in the air."""
    if len(nodes) <= limit:
        return nodes
    least = sorted((node.total for node in nodes), reverse=True)[limit]
    return [node for node in nodes if node.total > least]


def _frame(node: Node, whole: int, unit: str) -> str:
    x, width = node.left / whole * _WIDTH, node.total / whole * _WIDTH
    y = _TOP + node.depth * _ROW
    room = int((width - 6) / _CHARACTER)
    name = clean(short_name(node.name))
    text = (
        f'<text x="{x + 3:.2f}" y="{y + 12}">{escape(_cut(name, room), quote=False)}</text>'
        if room >= 3
        else ""
    )
    share = f"{amount(node.total, unit)}, {node.total / whole:.2%}"
    return (
        f'<g class="f"><title>{escape(clean(node.name), quote=False)}\n{share}</title>'
        f'<rect x="{x:.2f}" y="{y}" width="{width:.2f}" height="{_ROW - 1}" rx="1" '
        f'fill="{_colour(node)}"/>{text}</g>\n'
    )


def _colour(node: Node) -> str:
    """Return a warm colour that a module keeps in every graph."""
    if not node.depth:
        return "#c9c9c9"
    module = zlib.crc32(node.name.partition(":")[0].encode("utf-8", "replace"))
    function = zlib.crc32(node.name.encode("utf-8", "replace"))
    red, green, blue = 225 + function % 30, 120 + module % 105, 60 + (module >> 8) % 60
    return f"#{red:02x}{green:02x}{blue:02x}"


def _notes(graph: Tree, unit: str, left_out: int) -> str:
    if not graph.root.total:
        return "nothing was sampled"
    parts = [amount(graph.root.total, unit)]
    if left_out:
        parts.append(f"{plural(left_out, 'frame')} too narrow to draw")
    if graph.deepest > DEPTH_LIMIT:
        parts.append(f"stacks cut at {DEPTH_LIMIT} of {graph.deepest} frames")
    return ", ".join(parts)


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: max(room - 1, 0)] + "…"
