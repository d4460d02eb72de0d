"""`autoprof run`: start a program so that autoprof is in it although the files of site are not read.

A folder that holds nothing but our `sitecustomize.py` goes to the front of PYTHONPATH, and this process is
replaced by the program's. Its own children inherit the folder.
"""

from __future__ import annotations

import os
import sys

from autoprof import program

USAGE = "usage: autoprof run [-c FILE] [-e ENV] (SCRIPT | -m MODULE) ARGS…"
PYTHON_VARIABLE = "AUTOPROF_PYTHON"
"""Which interpreter the folder on PYTHONPATH is meant for; under any other it does nothing."""

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup", "site")
_OPTIONS = {
    "-c": "AUTOPROF_CONFIG",
    "--config": "AUTOPROF_CONFIG",
    "-e": "AUTOPROF_ENV",
    "--env": "AUTOPROF_ENV",
}


class UsageError(Exception):
    """The command line of `autoprof run` makes no sense."""


def run(argv: list[str]) -> int:
    """Replace this process by the program `argv` describes.

    Returns:
        2 for a usage error, 126 or 127 when the program cannot be started; else the program's own status, and
        only where a process cannot be replaced (Windows).
    """
    try:
        settings, rest = parse(argv)
        environ = environment(settings)
        command = command_line(rest)
    except UsageError as error:
        sys.stderr.write(f"autoprof run: {error}\n")
        return 2
    if environ.get("AUTOPROF_ENABLED", "").strip().lower() not in ("0", "false", "no", "off"):
        reason = why_inert(command)
        if reason:
            sys.stderr.write(f"autoprof: {reason}; the program runs without profiling\n")
    return _become(command, environ)


def parse(argv: list[str]) -> tuple[dict[str, str], list[str]]:
    """Split our options, as environment variables, from the program and its arguments."""
    settings: dict[str, str] = {}
    rest = list(argv)
    while rest:
        name, _, value = rest[0].partition("=")
        if rest[0] == "--":
            rest.pop(0)
            break
        if name not in _OPTIONS:
            if rest[0].startswith("-") and not rest[0].startswith("-m"):
                raise UsageError(f"unknown option {rest[0]!r}; {USAGE}")
            break
        del rest[0]
        if not value:
            if not rest:
                raise UsageError(f"{name} needs a value; {USAGE}")
            value = rest.pop(0)
        settings[_OPTIONS[name]] = value
    if not rest or rest == ["-m"]:
        raise UsageError(f"no program given; {USAGE}")
    return settings, rest


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Return the program's environment: ours, the settings, and the folder in front of PYTHONPATH."""
    environ = {**os.environ, **settings}
    if not environ.get("AUTOPROF_CONFIG"):
        raise UsageError("no policy file given; use -c FILE or set AUTOPROF_CONFIG")
    environ["AUTOPROF_CONFIG"] = os.path.abspath(environ["AUTOPROF_CONFIG"])
    environ[PYTHON_VARIABLE] = f"{sys.implementation.cache_tag}:{sys.prefix}"
    paths = environ.get("PYTHONPATH")
    if not paths:
        environ["PYTHONPATH"] = FOLDER
    elif paths.split(os.pathsep)[0] != FOLDER:
        environ["PYTHONPATH"] = FOLDER + os.pathsep + paths
    return environ


def command_line(rest: list[str]) -> list[str]:
    """Return what to execute: this interpreter with its own options, or a command that is not Python."""
    import shutil
    from subprocess import _args_from_interpreter_flags  # type: ignore[attr-defined]

    python = [sys.executable, *_args_from_interpreter_flags()]
    name = rest[0]
    if name.startswith("-m"):
        return [*python, *rest]
    found = shutil.which(name)
    if _is_python(name):
        return [found or name, *rest[1:]]
    main = os.path.join(name, "__main__.py")  # a folder named like a command is not meant
    if found is None or os.path.isfile(name) or os.path.isfile(main):
        return [*python, *rest]
    if _is_python_script(found):
        return [*python, found, *rest[1:]]
    return [found, *rest[1:]]


def why_inert(command: list[str]) -> str:
    """Return why autoprof will not be in that process, "" if it will."""
    if not _is_python(command[0]) and command[0] != sys.executable:
        return ""
    flags = program.parse(command).flags
    if "S" in flags:
        return "-S keeps Python from reading what starts autoprof"
    ignoring = "I" if "I" in flags else "E" if "E" in flags else ""
    if ignoring and not is_installed():
        return (
            f"-{ignoring} makes Python ignore PYTHONPATH, and autoprof is not installed in this environment"
        )
    return ""


def is_installed() -> bool:
    """Tell whether site reads our `.pth` file in this environment."""
    import site

    folders = site.getsitepackages()
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return any(os.path.exists(os.path.join(folder, "zzz_autoprof.pth")) for folder in folders)


def _is_python(path: str) -> bool:
    import re

    return re.fullmatch(r"(python|pypy)[\d.]*t?(\.exe)?", os.path.basename(path)) is not None


def _is_python_script(path: str) -> bool:
    try:
        with open(path, "rb") as file:
            return b"python" in file.readline(256).partition(b"#!")[2]
    except OSError:
        return False


def _become(command: list[str], environ: dict[str, str]) -> int:
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "nt":
            import subprocess

            return subprocess.run(command, env=environ, check=False).returncode
        os.execvpe(command[0], command, environ)
    except OSError as error:
        sys.stderr.write(f"autoprof run: {command[0]}: {error.strerror}\n")
        return 127 if isinstance(error, FileNotFoundError) else 126
