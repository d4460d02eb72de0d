"""`autoprof doctor`: whether and how autoprof works in this environment."""

from __future__ import annotations

import os
import subprocess
import sys

from autoprof import advice, load
from autoprof.errors import PolicyErrors, StoreError, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from autoprof.policy import Policy

_VARIABLES = tuple(f"AUTOPROF_{name}" for name in ("CONFIG", "ENV", "ENABLED", "OUTPUT", "STRICT"))
_DISTRIBUTION, _OTHER_DISTRIBUTION = "autoprof-hook", "autoprof"
_DEFAULT_OUTPUT = "./autoprof-data"
_PROBE_S = 20
# Asks a fresh interpreter: a policy that is not there stays harmless, but the start-up file must have run.
_PROBE = "import sys; print('autoprof.bootstrap' in sys.modules)"
_RESIDENT = "import os; print(int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE'))"


def examine(environ: Mapping[str, str]) -> tuple[int, list[str]]:
    """Return 0 when programs started here would be profiled, else 1, and what was looked at, line by line."""
    live, start = _start_files(environ)
    version = _version(_DISTRIBUTION) or "not installed as a distribution"
    folder = os.path.dirname(__file__)
    policy, said = _policy(environ)
    clash = _clash()
    output = os.path.expanduser(
        environ.get("AUTOPROF_OUTPUT") or (policy.output if policy else "") or _DEFAULT_OUTPUT
    )
    at_start_bytes = _at_start_bytes(environ) if live and policy else None
    lines = [
        f"python    {sys.version.split()[0]} ({sys.implementation.name}), {printable(sys.executable)}",
        f"autoprof  {version}, {printable(folder)}",
        f"rewrite   {_back_end()}",
        f"start     {start}",
        *(f"variable  {name}={printable(environ[name])}" for name in _VARIABLES if name in environ),
        f"policy    {said}",
        *_labelled("load", load.outlook(policy.load_cpu, policy.load_memory) if policy else []),
        *_labelled("overhead", _overhead(output, policy)),
        *_labelled("errors", _internal_errors(output)),
        *_labelled("memory", advice.memory_lines(output, policy, at_start_bytes)),
        *([f"clash     {clash}"] if clash else []),
    ]
    ready = live and policy is not None and not clash
    lines.append("live: programs started here are profiled" if ready else "not live: see the lines above")
    return (0 if ready else 1), lines


def _labelled(label: str, lines: list[str]) -> list[str]:
    return [f"{label if not index else '':<8}  {line}" for index, line in enumerate(lines)]


def _overhead(folder: str, policy: Policy | None) -> list[str]:
    """Name the costliest probes of the last run, and the edits that cure them."""
    from autoprof.store_reader import StoreReader

    try:
        data = StoreReader([folder]).select("last", stacks=False)
    except StoreError as problem:
        return [printable(f"not known: {problem}")]
    if not data.probes:
        return [printable(f"not known: nothing was measured yet in {folder!r}")]
    return advice.cost_lines(data, policy)


def _internal_errors(folder: str) -> list[str]:
    """Name the places where autoprof failed in the last run."""
    from autoprof.standing import INTERNAL
    from autoprof.store_reader import StoreReader

    try:
        data = StoreReader([folder]).select("last", stacks=False)
    except StoreError:
        return []  # the lines before say it
    failed = [each for each in data.states if each.policy == INTERNAL]
    return [printable(f"in {each.target}: {each.reason}") for each in failed]


def _at_start_bytes(environ: Mapping[str, str]) -> int | None:
    """Return how much larger a fresh process is with autoprof and the policy; None where /proc does not tell."""
    sizes = []
    for enabled in ("1", "0"):
        env = {**environ, "AUTOPROF_ENABLED": enabled}
        env.pop("AUTOPROF_STRICT", None)
        try:
            asked = subprocess.run(
                [sys.executable, "-c", _RESIDENT],
                env=env, capture_output=True, text=True, timeout=_PROBE_S, check=False,
            )  # fmt: skip
            sizes.append(int(asked.stdout))
        except (OSError, ValueError, subprocess.SubprocessError):
            return None
    return sizes[0] - sizes[1]


def _back_end() -> str:
    try:
        from autoprof.rewrite import backend

        chosen = backend.choose("auto")
    except Exception as problem:
        return f"none: {type(problem).__name__}: {printable(str(problem))}"
    return f"{chosen.name}: {chosen.reason}"


def _start_files(environ: Mapping[str, str]) -> tuple[bool, str]:
    """Ask a fresh interpreter whether the `.pth` (or `.start`) line runs."""
    env = {**environ, "AUTOPROF_CONFIG": os.devnull, "AUTOPROF_ENABLED": "1"}
    env.pop("AUTOPROF_STRICT", None)
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=env, capture_output=True, text=True, timeout=_PROBE_S, check=False, cwd=os.sep,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as problem:
        return False, f"not known: {type(problem).__name__}: {printable(str(problem))}"
    if asked.stdout.strip() == "True":
        return True, "the environment variable AUTOPROF_CONFIG is enough here"
    return (
        False,
        "the start-up file (.pth, .start) does not run here: install it, or use 'autoprof run'",
    )


def _policy(environ: Mapping[str, str]) -> tuple[Policy | None, str]:
    """Return the policy that programs started here would have, if any, and a sentence about it."""
    path = environ.get("AUTOPROF_CONFIG")
    if not path:
        return None, "none: AUTOPROF_CONFIG is not set, so nothing is profiled"
    if environ.get("AUTOPROF_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return None, "switched off by AUTOPROF_ENABLED"
    from autoprof import config

    try:
        policy = config.load(path, env=environ, env_name=environ.get("AUTOPROF_ENV"))
    except PolicyErrors as problems:
        return None, printable(f"rejected: {str(problems).splitlines()[0]} (see autoprof check)")
    except OSError as problem:
        return None, printable(f"can't be read: {path}: {problem.strerror}")
    rules = f"{len(policy.rules)} rule{'' if len(policy.rules) == 1 else 's'}"
    return policy, printable(f"{path}: {rules}, environment {policy.env}, output {policy.output}")


def _clash() -> str:
    """Return a sentence when the unrelated astronomy package of the same import name is installed too."""
    version = _version(_OTHER_DISTRIBUTION)
    if not version:
        return ""
    return (
        f"the unrelated distribution 'autoprof' {version} is installed and shares the folder autoprof/: "
        "uninstall both, then install autoprof-hook"
    )


def _version(distribution: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return ""
