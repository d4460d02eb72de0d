"""Put policies in force: start, replace, reload, stop; and what a fork and the end of the process mean for that."""

from __future__ import annotations

import os

from autoprof import events, guard, importing, interpreters, leaving, loading, run
from autoprof.background import CHANGE_WAIT_S, FORK_DELICATE_WAIT_S, FORK_WAIT_S
from autoprof.latent import Latent, has_met
from autoprof.primitives import RLock
from autoprof.reload import Watcher

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from autoprof.policy import Policy
    from autoprof.probe import Probe
    from autoprof.probe_status import ProbeStatus
    from autoprof.wiring import Session

current: Session | None = None
_latent: Latent | None = None
"""The policy in force while it has met nothing that it names; then there is no session."""

_expected: Watcher | None = None
"""Looks at the policy file while there is no session: it is missing or wrong, or has met nothing."""

_prepared = False
_held = False
_changing = RLock()
"""Held while a policy is put in force; no code of the application runs meanwhile."""


def start(path_or_policy: Any = None) -> None:
    """Put a policy in force, replacing the one before; in a subinterpreter only log why not.

    Args:
        path_or_policy: a path, a mapping in the shape of the file, or a Policy; None is the default session that
            decorators use.

    Raises:
        PolicyErrors: the policy is wrong; the one in force stays.
        OSError: the file can't be read.
    """
    if interpreters.refused():
        return
    policy, source = loading.policy_of(path_or_policy)
    _start(policy, source)


def _start(policy: Policy | None, source: loading.Source | None) -> None:
    global current, _expected
    wiring = importing.load("autoprof.wiring")  # before the lock: see `_awaken`
    fresh = old = None
    gone: list[Probe] = []
    with _changing:
        _forget_latent()
        if current is not None and policy is not None and current.rewrites_as(policy):
            gone = current.replace(policy)
        else:
            fresh = wiring.Session(policy)
            _prepare_process()
            old, current = current, fresh
        session = current
    if old is not None:
        _end(old)
    with _changing:
        if fresh is not None:
            fresh.begin()
        watcher, _expected = _expected, None
        session.watcher = _keep_watch(session.policy, source, watcher or session.watcher)
    session.tell(gone)


def _put(policy: Policy, source: loading.Source) -> None:
    """Put a file's policy in force: with a session once there is something for it to do."""
    if current is not None or has_met(policy):
        _start(policy, source)
    else:
        _lie_in_wait(policy, source)


def _lie_in_wait(policy: Policy, source: loading.Source) -> None:
    global _latent, _expected
    with _changing:
        _forget_latent()
        _prepare_process()
        loading.name_environment(policy)
        _latent = Latent(policy, _awaken)
        _latent.install()
        _expected = _keep_watch(policy, source, _expected)
    loading.tell(policy)


def _forget_latent() -> None:
    global _latent
    if _latent is not None:
        _latent.uninstall()
        _latent = None


def _awaken(latent: Latent) -> None:
    """Make the session of a policy that has met something. Runs inside the import of that module."""
    global current, _latent, _expected
    # Beware: importlib finds deadlocks among its own locks only. No import of the standard library's under `_changing`.
    wiring = importing.load("autoprof.wiring")
    if not hasattr(wiring, "Session"):
        return  # `_start` on this thread imports it, and that what a rule names: the session will find it
    if not _changing.acquire(True, CHANGE_WAIT_S):
        return
    try:
        if _latent is not latent:
            return
        session = wiring.Session(latent.policy)  # where that fails, the next module tries again
        _latent = None
        session.awaken(latent)
        current = session
        session.begin()
        session.watcher, _expected = _expected, None
    finally:
        _changing.release()
    session.tell([], loaded=False)


def _end(session: Session) -> None:
    """End a session. Beware: never under `_changing`; the last flush has receivers."""
    try:
        session.end()
    except Exception as error:
        guard.report("stop", error)


def awake() -> Session | None:
    """Return the session; make it if a policy is in force that has met nothing yet."""
    if current is None and _latent is not None:
        _awaken(_latent)
    return current


def _keep_watch(
    policy: Policy | None, source: loading.Source | None, watcher: Watcher | None
) -> Watcher | None:
    """Have the policy's file looked at, as its `reload` says; `watcher` may do so already."""
    period_ns = policy.reload_ns if policy is not None else None
    if watcher is not None and (source is None or watcher.path != source.path or not period_ns):
        watcher.rest(0.0)
        watcher = None
    if watcher is None and source is not None and period_ns:
        watcher = _watch(source, period_ns / 1e9)
    elif watcher is not None and period_ns:
        watcher.period_s = period_ns / 1e9
    return watcher


def start_from_environment() -> None:
    """Start with the file that AUTOPROF_CONFIG names; what `bootstrap` calls once site is done.

    A bad or missing file leaves the application alone: one WARNING for all its processes, nothing installed, and the
    file is looked at again.

    Raises:
        PolicyErrors, OSError: only under AUTOPROF_STRICT.
    """
    global _expected
    if interpreters.refused():
        return
    from autoprof.errors import PolicyErrors

    source = loading.Source(os.environ["AUTOPROF_CONFIG"])
    try:
        policy = source.read()
    except (PolicyErrors, OSError) as error:
        if guard.strict():
            raise
        loading.refuse(source, error, "autoprof stays off")
        _prepare_process()
        _expected = _watch(source, loading.RELOAD_S)
        return
    if loading.for_this_program(policy):
        _put(policy, source)


def _watch(source: loading.Source, period_s: float) -> Watcher:
    """Have the file looked at from now on."""
    import threading  # noqa: F401  # see `Session._installed`: the watcher's thread must not be the first to import it

    def changed(_: bytes, sure: bool) -> bool:
        from autoprof.errors import PolicyErrors

        try:
            policy = source.read()
        except OSError:
            return False  # gone again
        except PolicyErrors as error:
            if sure:
                loading.refuse(
                    source,
                    error,
                    "the policy in force stays" if current or _latent else "autoprof stays off",
                )
            return False
        loading.accept()
        _put(policy if loading.for_this_program(policy) else policy.without_rules(), source)
        return True

    def gone(error: OSError) -> None:
        if (current or _latent) and not run.inherited_run():
            guard.warn(f"the policy file is gone, the policy in force stays: {error}")

    made = Watcher(source.path, source.content, period_s, changed, gone)
    made.start()
    return made


def _prepare_process() -> None:
    global _prepared
    if _prepared:
        return
    _prepared = True
    import atexit

    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_in_child)


def _at_exit(**_: object) -> None:
    try:
        if _expected is not None:
            _expected.rest(FORK_WAIT_S, CHANGE_WAIT_S)
        if current is None:
            return
        current.governor.rest(FORK_WAIT_S)
        if current.watcher is not None:
            current.watcher.rest(FORK_WAIT_S, CHANGE_WAIT_S)
        current.flusher.close()
    except Exception as error:
        guard.report("exit", error)


def _before_fork() -> None:
    global _held
    _held = _changing.acquire(True, CHANGE_WAIT_S)  # a child must not be born with half a policy
    _with_session("rest")
    if _expected is not None:
        _expected.rest(FORK_WAIT_S, FORK_DELICATE_WAIT_S)
    if current is not None:
        try:
            leaving.close_with_celery(_at_exit)
        except Exception as error:
            guard.report("fork", error)
    importing.hold()


def _after_fork() -> None:
    global _held
    importing.release()
    held, _held = _held, False
    if held:
        _changing.release()
    _with_session("resume")


def _in_child() -> None:
    global _held, _changing
    importing.release()
    _held, _changing = False, RLock()
    _with_session("in_child")
    if _expected is not None:
        _expected.forget_thread()
        _expected.start()


def _with_session(act: str) -> None:
    if current is not None:
        try:
            getattr(current, act)()
        except Exception as error:
            guard.report("fork", error)


def stop() -> None:
    """Take everything off again: idempotent; flushes, waits at most 2 s."""
    global current, _expected
    with _changing:
        old, current = current, None
        _forget_latent()
        waiting, _expected = _expected, None
        if waiting is not None:
            waiting.rest(FORK_WAIT_S)
    if old is not None:
        _end(old)


def status() -> list[ProbeStatus]:
    """Return the state of every probe of the session in force."""
    with _changing:
        return current.status() if current is not None else []


def decorate(function: Any, kind: str, options: dict[str, Any]) -> Any:
    """Be a decorator: start the default session when there is none."""
    if awake() is None:
        start(None)
    if current is None:
        return function
    env = options.get("env")
    if env is not None and events.environment["env"] not in env:
        options = {**options, "enabled": False}
    return current.installer.decorate(function, kind, options)
