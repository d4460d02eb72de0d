"""How this process was started: the interpreter's command line read as the interpreter reads it."""

from __future__ import annotations

import os
import sys

PROGRAM_VARIABLE = "AUTOPROF_PROGRAM"
"""Hands the program's names on to the helper processes of multiprocessing, themselves `python -c …`."""

_WITH_VALUE = "cmWX"
_HELPERS = ("from multiprocessing.spawn import ", "from multiprocessing.forkserver import ")
_SUPERFLUOUS = "from multiprocessing.resource_tracker import "


class Command:
    """A Python command line.

    Attributes:
        kind: "script" (a file, a folder, a zip file), "module" (-m), "command" (-c), "stdin" (also the
        prompt)
            or "embedded" (no Python command line at all).
        value: the path, the module's name or the code; "" where there is none.
        flags: the one-letter options before it, those that take a value left out.
    """

    __slots__ = ("flags", "kind", "value")

    def __init__(self, kind: str, value: str, flags: str = "") -> None:
        self.kind = kind
        self.value = value
        self.flags = flags


def parse(argv: list[str]) -> Command:
    """Read a command line whose first item is the interpreter."""
    if not argv:
        return Command("embedded", "")
    flags = ""
    rest = iter(argv[1:])
    for item in rest:
        if item == "-":
            break
        if item[:1] != "-":
            return Command("script", item, flags)
        if item[:2] == "--":
            if item == "--check-hash-based-pycs":
                next(rest, None)
            continue
        for position, letter in enumerate(item[1:], start=2):
            if letter not in _WITH_VALUE:
                flags += letter
                continue
            value = item[position:] or next(rest, "")
            if letter in "cm":
                return Command("command" if letter == "c" else "module", value, flags)
            break
    return Command("stdin", "", flags)


def own() -> Command:
    """Return the command line of this process."""
    return parse(sys.orig_argv)


def program_name() -> str:
    """Return the program's name as its user would say it: `app.py`, `gunicorn`, `shop.worker`, `python3`."""
    return program_names()[0]


def program_names() -> tuple[str, ...]:
    """Return every name the program goes by, the best first.

    `python app.py` is "app.py" and "python", `python -m shop` is "shop" and "python"; a console script is
    itself only. Children of multiprocessing go by their parent's names.
    """
    command = own()
    if command.kind == "command" and command.value.startswith(_HELPERS):
        inherited = os.environ.get(PROGRAM_VARIABLE)
        if inherited:
            return tuple(inherited.split("/"))
    if command.kind == "embedded":
        return (
            _base(sys.argv[0] if getattr(sys, "argv", None) else "")
            or _base(sys.executable or "")
            or "python",
        )
    interpreter = _base(sys.orig_argv[0]) or "python"
    if command.kind == "module":
        return (command.value, interpreter)
    if command.kind != "script":
        return (interpreter,)
    name = _base(command.value) or _base(os.getcwd())
    stem, extension = os.path.splitext(name)
    if extension == ".exe":
        return (stem,)
    return (name, interpreter) if extension in (".py", ".pyc", ".pyw", ".pyz") else (name,)


def is_superfluous() -> bool:
    """Tell whether this is multiprocessing's resource tracker, which runs nothing of the application."""
    command = own()
    return command.kind == "command" and command.value.startswith(_SUPERFLUOUS)


def _base(path: str) -> str:
    return os.path.basename(path.rstrip("/\\" if os.name == "nt" else "/"))
