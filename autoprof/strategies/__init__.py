"""Ways to measure a call: one file each, and this table of them.

A strategy is made once per session, as `Class(deliver)`; `deliver(probe, data, duration_ns, view)` renders and writes
an artefact (see `autoprof.artefacts`) and returns its path, or None. See `autoprof.probe.Strategy` for its methods; one
that holds something open has `close()` too, for the session's end.
"""

from __future__ import annotations

from autoprof.importing import load

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from autoprof.probe import Probe

    Deliver = Callable[[Probe, Any, int, str], "str | None"]

HOMES = {
    "call_graph": ("call_graph", "CallGraph"),
    "cprof": ("call_graph", "Cprof"),
    "eprof": ("call_graph", "Eprof"),
    "flame_graph": ("flame_graph", "FlameGraph"),
    "fprof": ("call_graph", "Fprof"),
    "memory": ("memory", "Memory"),
    "profile_calls": ("calls", "Calls"),
    "profile_memory": ("profile_memory", "ProfileMemory"),
}
"""Strategy, or policy with one of its own → (module of this folder, class). `sample` is the flight recorder."""


def key_of(policy: str, strategy: str) -> str:
    """Return the key in HOMES for a policy and the strategy its rule names."""
    return policy if policy in ("profile_memory", "profile_calls") else strategy


def named_in(policy: str, options: dict[str, Any]) -> str:
    """Return the strategy that a rule names, by itself or by its options."""
    return "flame_graph" if policy == "flame_graph" else str(options.get("strategy") or "sample")


def key_for(policy: str, options: dict[str, Any]) -> str:
    """Return the key in HOMES for a policy and its options."""
    return key_of(policy, named_in(policy, options))


def is_built(key: str) -> bool:
    """Tell whether this version can measure so."""
    return key == "sample" or key in HOMES


def make(key: str, deliver: Deliver) -> Any:
    """Import and make one strategy.

    Raises:
        KeyError: there is none of that name.
    """
    module, name = HOMES[key]
    return getattr(load(f"autoprof.strategies.{module}"), name)(deliver)


def close(made: Iterable[Any]) -> None:
    """Let the strategies of a session give back what they hold open, at its end."""
    for each in made:
        if hasattr(each, "close"):
            each.close()
