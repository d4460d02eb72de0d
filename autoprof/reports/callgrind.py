"""Graphs of calls for KCachegrind and `callgrind_annotate`: https://valgrind.org/docs/manual/cl-format.html."""

from __future__ import annotations

from autoprof.reports.model import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof.callgraph import Figures, Function, Graph


def render_graph(graph: Graph, *, title: str) -> str:
    """Return a file whose costs are nanoseconds."""
    return _file(graph, title, timed=True)


def render_counts(graph: Graph, *, title: str) -> str:
    """Return a file whose costs are calls."""
    return _file(graph, title, timed=False)


render_details = render_functions = render_graph


def _file(graph: Graph, title: str, timed: bool) -> str:
    names = _Names()
    total = sum(_self(each, timed) for each in graph.functions.values())
    lines = [
        "# callgrind format",
        "version: 1",
        "creator: autoprof",
        f"cmd: {clean(title)}",
        "positions: line",
        f"events: {'Nanoseconds' if timed else 'Calls'}",
        f"summary: {total}",
    ]
    callees: dict[Function, list[tuple[Function, Figures]]] = {}
    for (caller, callee), figures in sorted(graph.edges.items(), key=lambda item: item[0]):
        callees.setdefault(caller, []).append((callee, figures))
    for function, figures in sorted(graph.functions.items(), key=lambda item: item[0]):
        line = function[2]
        lines += ["", f"fl={names.file(function)}", f"fn={names.function(function)}"]
        lines.append(f"{line} {_self(figures, timed)}")
        for callee, each in callees.get(function, ()):
            lines += [f"cfi={names.file(callee)}", f"cfn={names.function(callee)}"]
            lines.append(f"calls={each.calls} {callee[2]}")
            lines.append(f"{line} {each.cumulative_ns if timed else each.calls}")
    return "\n".join(lines) + "\n"


def _self(figures: Figures, timed: bool) -> int:
    return figures.self_ns if timed else figures.calls


class _Names:
    """Names are written once, as `(number) name`, and then by their number."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._functions: dict[Function, int] = {}

    def file(self, function: Function) -> str:
        """Return a file's name or number."""
        file = function[1]
        known = self._files.get(file)
        if known is not None:
            return f"({known})"
        self._files[file] = number = len(self._files) + 1
        return f"({number}) {clean(file) or '~'}"

    def function(self, function: Function) -> str:
        """Return a function's name or number."""
        known = self._functions.get(function)
        if known is not None:
            return f"({known})"
        self._functions[function] = number = len(self._functions) + 1
        return f"({number}) {clean(function[0])}"
