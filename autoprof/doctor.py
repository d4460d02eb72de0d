"""`autoprof doctor`: whether and how autoprof works in this environment."""

from __future__ import annotations

import os
import subprocess
import sys

from autoprof.errors import PolicyErrors, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_VARIABLES = tuple(f"AUTOPROF_{name}" for name in ("CONFIG", "ENV", "ENABLED", "OUTPUT", "STRICT"))
_DISTRIBUTION, _OTHER_DISTRIBUTION = "autoprof-hook", "autoprof"
_PROBE_S = 20
# Asks a fresh interpreter: a policy that is not there stays harmless, but the start-up file must have run.
_PROBE = "import sys; print('autoprof.bootstrap' in sys.modules)"


def examine(environ: Mapping[str, str]) -> tuple[int, list[str]]:
    """Return 0 when programs started here would be profiled, else 1, and what was looked at, line by line."""
    live, start = _start_files(environ)
    version = _version(_DISTRIBUTION) or "not installed as a distribution"
    folder = os.path.dirname(__file__)
    usable, policy = _policy(environ)
    clash = _clash()
    lines = [
        f"python    {sys.version.split()[0]} ({sys.implementation.name}), {printable(sys.executable)}",
        f"autoprof  {version}, {printable(folder)}",
        f"rewrite   {_back_end()}",
        f"start     {start}",
        *(f"variable  {name}={printable(environ[name])}" for name in _VARIABLES if name in environ),
        f"policy    {policy}",
        *([f"clash     {clash}"] if clash else []),
    ]
    ready = live and usable and not clash
    lines.append("live: programs started here are profiled" if ready else "not live: see the lines above")
    return (0 if ready else 1), lines


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


def _policy(environ: Mapping[str, str]) -> tuple[bool, str]:
    path = environ.get("AUTOPROF_CONFIG")
    if not path:
        return False, "none: AUTOPROF_CONFIG is not set, so nothing is profiled"
    if environ.get("AUTOPROF_ENABLED", "").strip().lower() in ("0", "false", "no", "off"):
        return False, "switched off by AUTOPROF_ENABLED"
    from autoprof import config

    try:
        policy = config.load(path, env=environ, env_name=environ.get("AUTOPROF_ENV"))
    except PolicyErrors as problems:
        return False, printable(f"rejected: {str(problems).splitlines()[0]} (see autoprof check)")
    except OSError as problem:
        return False, printable(f"can't be read: {path}: {problem.strerror}")
    rules = f"{len(policy.rules)} rule{'' if len(policy.rules) == 1 else 's'}"
    return True, printable(f"{path}: {rules}, environment {policy.env}, output {policy.output}")


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
