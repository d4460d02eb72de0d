"""Production profiling with no code change: policies in YAML, functions rewritten as they are imported.

`AUTOPROF_CONFIG=policy.yaml python app.py` is the usual way in. From code: `start`, `stop`, `status`, the signals in
`autoprof.signals`, and the policies as decorators. Importing the package loads nothing else.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from autoprof import signals as signals
    from autoprof import testing as testing
    from autoprof.decorators import (
        flame_graph,
        profile,
        profile_calls,
        profile_if_slow,
        profile_memory,
        profile_production,
    )
    from autoprof.probe_status import ProbeStatus
    from autoprof.session import start, status, stop

__version__ = "0.1.0"

__all__ = [
    "ProbeStatus",
    "flame_graph",
    "profile",
    "profile_calls",
    "profile_if_slow",
    "profile_memory",
    "profile_production",
    "signals",
    "start",
    "status",
    "stop",
    "testing",
]

_HOME = {
    "ProbeStatus": "autoprof.probe_status",
    "flame_graph": "autoprof.decorators",
    "profile": "autoprof.decorators",
    "profile_calls": "autoprof.decorators",
    "profile_if_slow": "autoprof.decorators",
    "profile_memory": "autoprof.decorators",
    "profile_production": "autoprof.decorators",
    "start": "autoprof.session",
    "status": "autoprof.session",
    "stop": "autoprof.session",
}
_MODULES = ("signals", "testing")


def __getattr__(name: str) -> object:
    if name not in _HOME and name not in _MODULES:
        raise AttributeError(f"module 'autoprof' has no attribute {name!r}")
    from importlib import import_module

    if name in _MODULES:
        return import_module(f"autoprof.{name}")
    found: object = getattr(import_module(_HOME[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
