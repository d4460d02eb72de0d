"""The report as one HTML file that needs nothing else, and runs nothing but its own two scripts."""

from __future__ import annotations

import base64
import hashlib
from html import escape

from autoprof.reports import flame_script, html_page, svg
from autoprof.reports.model import (
    clean,
    moment,
    paid,
    plural,
    quantiles,
    row_stacks,
    sampled_keys,
    self_samples,
    span,
    title_of,
)
from autoprof.units import format_duration, format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import TypeAlias

    from autoprof.reports.model import Stacks
    from autoprof.store_records import Key, ProbeRow, ProcessRow, ReportData

    _Column: TypeAlias = Callable[[ProbeRow], tuple[int | None, str]]

GRAPHS_LIMIT = 40
_FRAMES_LIMIT = 3_000
_FUNCTIONS_LIMIT = 15


def render(data: ReportData) -> str:
    """Return the whole report."""
    keys = sampled_keys(data)
    places = {key: f"t{number}" for number, key in enumerate(keys[:GRAPHS_LIMIT])}
    parts = [
        f"<h1>autoprof report</h1><p class=soft>{_text(_headline(data))}</p>",
        *(f"<p class=soft>{_text(notice)}</p>" for notice in data.notices),
        "<h2>Targets</h2>",
        "<input class=filter hidden placeholder='Filter targets' aria-label='Filter targets'>",
        _targets(data.probes, places),
    ]
    if keys:
        parts.append("<h2>Flame graphs</h2>")
        graphs = enumerate(places.items())
        parts += [_graph(data, key, place, not number) for number, (key, place) in graphs]
    if len(keys) > GRAPHS_LIMIT:
        parts.append(
            f"<p class=soft>{_text(plural(len(keys) - GRAPHS_LIMIT, 'more target'))} with samples: narrow "
            "the report down with <code>--target</code> to see their graphs.</p>"
        )
    parts += [*_callees(data.probes), _files(data), _processes(data.processes)]
    return _page(f"autoprof report, run {data.run}", "\n".join(parts))


def render_stacks(stacks: Stacks, *, title: str, unit: str = "ns") -> str:
    """Return a page with one flame graph; see `svg.render_stacks`."""
    graph = svg.fragment(stacks, title=title, unit=unit)
    return _page(title, f"<h1>{_text(title)}</h1>{graph}")


def _page(title: str, body: str) -> str:
    """Return a document whose policy lets nothing be loaded and only our own two scripts run."""
    scripts = (flame_script.SCRIPT, html_page.SCRIPT)
    hashes = " ".join(f"'sha256-{base64.b64encode(_sha256(script)).decode()}'" for script in scripts)
    rules = f"default-src 'none'; style-src 'unsafe-inline'; script-src {hashes}; base-uri 'none'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{rules}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title>\n<style>\n{html_page.STYLE}\n{flame_script.STYLE}\n</style></head>\n"
        f"<body><main>\n{body}\n</main>\n"
        + "".join(f"<script>{script}</script>\n" for script in scripts)
        + "</body></html>\n"
    )


def _sha256(script: str) -> bytes:
    return hashlib.sha256(script.encode()).digest()


def _headline(data: ReportData) -> str:
    parts = [f"run {data.run}", span(data), plural(len(data.processes), "process"), paid(data)]
    if data.dropped:
        parts.append(f"{data.dropped:,} samples measured but not kept")
    return ", ".join(parts)


def _targets(rows: list[ProbeRow], places: dict[Key, str]) -> str:
    columns = [(name, show) for name, show in _COLUMNS if any(show(row)[0] is not None for row in rows)]
    names = "".join(
        f"<th scope=col class=name><button type=button>{name}</button></th>" for name in ("Target", "Policy")
    )
    heads = "".join(f"<th scope=col><button type=button>{name}</button></th>" for name, _ in columns)
    body = "\n".join(_target(row, places.get(row.key), [show(row) for _, show in columns]) for row in rows)
    return (
        "<div class=scroll tabindex=0 role=region aria-label=Targets><table class=sortable>"
        f"<thead><tr>{names}{heads}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _target(row: ProbeRow, place: str | None, values: list[tuple[int | None, str]]) -> str:
    name = _text(row.target)
    if place:
        name = f'<a href="#{place}">{name}</a>'
    policy = row.policy if row.strategy in ("", "sample", row.policy) else f"{row.policy}, {row.strategy}"
    cells = "".join(f"<td data-v={-1 if value is None else value}>{text}</td>" for value, text in values)
    return (
        f'<tr data-target="{_text(row.target)}"><td class="name mono">{name}</td>'
        f'<td class=name title="rule: {_text(row.rule)}">{_text(policy)}</td>{cells}</tr>'
    )


def _count(name: str) -> _Column:
    return lambda row: (getattr(row, name), f"{getattr(row, name):,}")


def _time(value: int | None) -> tuple[int | None, str]:
    return value, "" if value is None else format_duration(value)


def _quantile(name: str) -> _Column:
    return lambda row: _time(quantiles(row)[name])


def _memory(row: ProbeRow) -> tuple[int | None, str]:
    value = row.memory_delta_bytes
    return value, "" if value is None else format_size(value)


_COLUMNS: tuple[tuple[str, _Column], ...] = (
    ("Calls", _count("calls")),
    ("Profiled", _count("profiled")),
    *((name, _quantile(name)) for name in ("p50", "p95", "p99")),
    ("Max", _quantile("max")),
    ("Est. total", lambda row: _time(row.estimated_total_ns)),
    ("Samples", _count("samples")),
    ("Memory", _memory),
    ("Overhead", lambda row: _time(row.overhead_ns)),
)


def _graph(data: ReportData, key: Key, place: str, is_open: bool) -> str:
    stacks = row_stacks(data, key)
    total = sum(samples for _, samples in stacks)
    name = title_of(key)
    return (
        f'<details id={place} data-target="{_text(key[0])}"{" open" if is_open else ""}><summary>'
        f"<span class=mono>{_text(name)}</span> <span class=soft>{plural(total, 'sample')}</span></summary>\n"
        f"{svg.fragment(stacks, title=name, unit='samples', frames_limit=_FRAMES_LIMIT)}\n"
        f"<h2>Running functions</h2>{_functions(self_samples(stacks), total)}</details>"
    )


def _functions(found: list[tuple[str, int]], total: int) -> str:
    rows = [(f"{samples / total:.1%}", f"{samples:,}", label) for label, samples in found[:_FUNCTIONS_LIMIT]]
    return _table(("Share", "Samples", "Function"), rows)


def _callees(rows: Iterable[ProbeRow]) -> Iterable[str]:
    for row in rows:
        if row.callees:
            counts = sorted(row.callees.items(), key=lambda item: (-item[1], item[0]))
            yield f"<h2>Calls made by <span class=mono>{_text(row.target)}</span></h2>"
            yield _table(("Calls", "Function"), [(f"{count:,}", name) for name, count in counts])


def _files(data: ReportData) -> str:
    if not data.artefacts:
        return ""
    rows = [(moment(item.created_ns), item.format, item.target, item.path) for item in data.artefacts]
    return "<h2>Files</h2>" + _table(("Written (UTC)", "Format", "Target", "File"), rows)


def _processes(rows: Iterable[ProcessRow]) -> str:
    cells = [
        (
            str(row.pid),
            moment(row.started_ns),
            moment(row.ended_ns) if row.ended_ns is not None else "running",
            format_duration(row.overhead_ns),
            row.host,
        )
        for row in rows
    ]
    return "<h2>Processes</h2>" + _table(("PID", "Started (UTC)", "Ended (UTC)", "Overhead", "Host"), cells)


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a plain table; its last column is a name."""
    last = len(heads) - 1
    top = "".join(
        f"<th class={'name' if at == last else 'cell'}>{head}</th>" for at, head in enumerate(heads)
    )
    lines = []
    for row in rows:
        cells = "".join(f"<td>{_text(cell)}</td>" for cell in row[:-1])
        lines.append(f'<tr>{cells}<td class="name mono">{_text(row[-1])}</td></tr>')
    body = "\n".join(lines)
    return (
        "<div class=scroll><table class=plain>"
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody></table></div>"
    )


def _text(text: str) -> str:
    return escape(clean(text))
