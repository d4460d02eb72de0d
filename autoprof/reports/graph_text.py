"""Graphs of calls as text: callers and callees, one function at a time, times per function, counts."""

from __future__ import annotations

from autoprof.reports.model import clean, plural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import TypeVar

    from autoprof.callgraph import Figures, Function, Graph

    _Key = TypeVar("_Key", Function, tuple[Function, Function])

_HEAD = f"{'calls':>15} {'self ms':>13} {'total ms':>13}"


def render_graph(graph: Graph, *, title: str) -> str:
    """Return a table of caller → callee, what took longest first."""
    lines = [*_header(graph, title), f"{_HEAD}  caller -> callee"]
    for (caller, callee), figures in _longest(graph.edges.items()):
        lines.append(f"{_figures(figures)}  {_name(caller)} -> {_name(callee)}")
    lines += ["", f"{_HEAD}  function"]
    lines += [f"{_figures(figures)}  {_name(each)}" for each, figures in _longest(graph.functions.items())]
    return _text(lines)


def render_details(graph: Graph, *, title: str) -> str:
    """Return a block per function: who called it above, itself after a %, what it called below."""
    callers: dict[Function, list[tuple[Function, Figures]]] = {}
    callees: dict[Function, list[tuple[Function, Figures]]] = {}
    for (caller, callee), figures in _longest(graph.edges.items()):
        callers.setdefault(callee, []).append((caller, figures))
        callees.setdefault(caller, []).append((callee, figures))
    lines = [*_header(graph, title), "Above a function who called it, below what it called.", ""]
    for function, figures in _longest(graph.functions.items()):
        lines.append(f"{_HEAD}")
        lines += [f"{_figures(each)}    from {_name(other)}" for other, each in callers.get(function, ())]
        lines.append(f"{_figures(figures)}  % {_name(function)}")
        lines += [f"{_figures(each)}    to   {_name(other)}" for other, each in callees.get(function, ())]
        lines.append("")
    return _text(lines)


def render_functions(graph: Graph, *, title: str) -> str:
    """Return the time in each function itself, most first."""
    whole_ns = graph.total_ns or 1
    lines = [
        *_header(graph, title),
        f"{'calls':>15} {'share':>7} {'self ms':>13} {'us a call':>12}  function",
    ]
    found = sorted(graph.functions.items(), key=lambda item: (-item[1].self_ns, item[0]))
    for function, figures in found:
        each_us = figures.self_ns / (figures.calls or 1) / 1e3
        share = f"{100 * figures.self_ns / whole_ns:.1f}%"
        lines.append(
            f"{_calls(figures):>15} {share:>7} {_ms(figures.self_ns):>13} {each_us:>12,.2f}  {_name(function)}"
        )
    return _text(lines)


def render_counts(graph: Graph, *, title: str) -> str:
    """Return how often each function was called, most first."""
    lines = [*_header(graph, title, timed=False), f"{'calls':>15}  function"]
    found = sorted(graph.functions.items(), key=lambda item: (-item[1].calls, item[0]))
    lines += [f"{_calls(figures):>15}  {_name(function)}" for function, figures in found]
    return _text(lines)


def _header(graph: Graph, title: str, timed: bool = True) -> list[str]:
    about = [plural(graph.measured, "call") + " followed"]
    if graph.cut:
        about.append(f"{graph.cut:,} of them not to the end")
    if timed:
        about.append(f"{_ms(graph.total_ns)} ms in all")
    inside = sum(figures.calls for figures in graph.edges.values())
    about.append(f"{plural(inside, 'call')} inside")
    return [clean(title), ", ".join(about), ""]


def _longest(items: Iterable[tuple[_Key, Figures]]) -> list[tuple[_Key, Figures]]:
    return sorted(items, key=lambda item: (-item[1].cumulative_ns, -item[1].calls, item[0]))


def _figures(figures: Figures) -> str:
    return f"{_calls(figures):>15} {_ms(figures.self_ns):>13} {_ms(figures.cumulative_ns):>13}"


def _calls(figures: Figures) -> str:
    """As `pstats` has it: all calls / those that were not recursive."""
    if figures.primitive != figures.calls:
        return f"{figures.calls}/{figures.primitive}"
    return str(figures.calls)


def _ms(span_ns: int) -> str:
    return f"{span_ns / 1e6:,.3f}"


def _name(function: Function) -> str:
    target, file, line, _ = function
    return clean(f"{target} ({file}:{line})" if file else target)


def _text(lines: list[str]) -> str:
    return "\n".join(lines) + "\n"
