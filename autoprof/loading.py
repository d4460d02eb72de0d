"""From what `start` is given, or the environment names, to a policy for this program."""

from __future__ import annotations

import os

from autoprof import events, guard, run, telling

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.policy import Policy

RELOAD_S = 1.0
"""How often a file that is missing or wrong from the start is looked at: it could not say."""

_refused: int | None = None
"""Descriptor of the refused file: the lock on it says that this process has told of it."""


class Source:
    """Where a policy came from: the file, and the environment it is read with at every time.

    Attributes:
        content: the file's bytes as they were read last; None when it could not be read.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.content: bytes | None = None
        self._environment = dict(os.environ)

    def read(self) -> Policy:
        """Read the file.

        Raises:
            PolicyErrors: it is wrong.
            OSError: it can't be read.
        """
        from autoprof import config

        self.content = None
        self.content = config.read(self.path)
        return self.parse(self.content)

    def parse(self, content: bytes) -> Policy:
        """Return the policy that a content of the file means.

        Raises:
            PolicyErrors: it is wrong.
        """
        from autoprof import config

        return config.loads(
            content,
            filename=self.path,
            env=self._environment,
            env_name=self._environment.get("AUTOPROF_ENV"),
        )


def policy_of(given: Any) -> tuple[Policy | None, Source | None]:
    """Return the policy that `start` was given, and its source where that is a file."""
    if given is None:
        return None, None
    from autoprof import config
    from autoprof.policy import Policy

    if isinstance(given, Policy):
        return given, None
    if isinstance(given, dict):
        return config.from_mapping(given, env=dict(os.environ)), None
    source = Source(os.fspath(given))
    return source.read(), source


def for_this_program(policy: Policy) -> bool:
    """Tell whether `programs:` lets this program be profiled."""
    if not policy.programs:
        return True
    from fnmatch import fnmatchcase

    from autoprof import program

    names = program.program_names()
    return any(fnmatchcase(name, each) for each in policy.programs for name in names)


def refuse(source: Source, error: Exception, consequence: str) -> None:
    """Tell of a file that is wrong or missing: one WARNING for all processes of the application, and the signal."""
    if _is_first_to_tell(source.path):
        guard.warn(f"{consequence}: {error}")
    telling.send_session("policy_rejected", {}, path=source.path, errors=str(error).splitlines())


def name_environment(policy: Policy | None) -> None:
    """Have all events name the policy's environment and service."""
    events.environment["env"] = policy.env if policy else os.environ.get("AUTOPROF_ENV") or "dev"
    events.environment["service"] = policy.service.get("service") if policy else None


def tell(policy: Policy) -> None:
    """Tell of a policy that is in force now: one INFO line about what does nothing yet, and the signal."""
    if policy.inactive:
        guard.inform(f"not active in this version: {', '.join(policy.inactive)}")
    telling.send_session("policy_loaded", {"rules": len(policy.rules)}, path=policy.path, env=policy.env)


def accept() -> None:
    """Forget a file that was refused."""
    global _refused
    refused, _refused = _refused, None
    if refused is not None:
        os.close(refused)


def _is_first_to_tell(path: str) -> bool:
    """Tell whether no other process of the application has told of the file as it is; theirs hold a lock on it."""
    global _refused
    accept()
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (ImportError, OSError):
        return not run.inherited_run()
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return False
    _refused = descriptor
    return True
