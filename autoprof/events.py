"""What autoprof says about a call: the names of its signals and the shape of their metadata."""

from __future__ import annotations

from os import getpid

from autoprof.primitives import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

NAMES = (
    "start",
    "stop",
    "exception",
    "sample",
    "slow_operation",
    "production",
    "memory",
    "calls",
    "complete",
    "policy_loaded",
    "policy_rejected",
    "probe_installed",
    "probe_removed",
    "paused",
    "resumed",
    "shed",
    "internal_error",
)

OF_CALLS = NAMES[: NAMES.index("policy_loaded")]
"""What is sent because of a call."""

PREFIX = "autoprof."
SESSION_SENDER = "autoprof"
"""The sender of events that belong to no target."""

environment: dict[str, Any] = {"env": "dev", "service": None}
"""Labels that every event carries; set by the session."""


def metadata(
    event: str, target: str, rule: str | None = None, policy: str | None = None, strategy: str | None = None
) -> dict[str, Any]:
    """Return the metadata that every event has."""
    module, _, function = target.partition(":")
    return {
        "event": event,
        "module": module,
        "function": function,
        "target": target,
        "rule": rule,
        "policy": policy,
        "strategy": strategy,
        "pid": getpid(),
        "thread": get_ident(),
        "env": environment["env"],
        "service": environment["service"],
    }
