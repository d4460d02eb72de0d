"""Parsers of single values: from what was written (YAML text or a Python value) to what autoprof uses.

Each returns the parsed value or raises BadValue, whose `problem` and `right` never quote the value.
"""

from __future__ import annotations

import os

from autoprof.errors import BadValue, UnitError, nearest
from autoprof.units import (
    DURATION_FORM,
    SHARE_FORM,
    SIZE_FORM,
    format_duration,
    format_size,
    parse_duration_ns,
    parse_share,
    parse_size_bytes,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Parser = Callable[[object], object]

OFF = ("off", "never", "false", "no")
PLACEHOLDERS = ("target", "time", "pid")
MAX_METADATA_KEYS = 16
MAX_TEXT = 1_000
_LONGEST_NS = 36_500 * 86_400 * 10**9


def optional(parse: Parser, *words: str) -> Parser:
    """Return a parser that reads null, or one of `words`, as None."""

    def parse_optional(value: object) -> object:
        if value is None or (isinstance(value, str) and value.lower() in words):
            return None
        if value is False and "off" in words:
            return None
        return parse(value)

    return parse_optional


def bounded(
    parse: Callable[[object], float], low: float, high: float, show: Callable[[int], str], form: str
) -> Parser:
    """Return a parser that also holds the value between two bounds, both allowed."""

    def parse_bounded(value: object) -> object:
        amount = parse(value)
        if low <= amount <= high:
            return amount
        limit = f"at least {show(int(low))}" if amount < low else f"at most {show(int(high))}"
        raise UnitError(f"out of range: it must be {limit}", form, given=value)

    return parse_bounded


def duration(low_ns: int = 0, high_ns: int = _LONGEST_NS) -> Parser:
    """Return a parser of durations within bounds."""
    return bounded(parse_duration_ns, low_ns, high_ns, format_duration, DURATION_FORM)


def size(low_bytes: int = 0, high_bytes: int = 2**50) -> Parser:
    """Return a parser of sizes within bounds."""
    return bounded(parse_size_bytes, low_bytes, high_bytes, format_size, SIZE_FORM)


def positive_share(value: object) -> object:
    """Return a share above 0."""
    share = parse_share(value)
    if share <= 0:
        raise UnitError("out of range: it must be above 0", f"{SHARE_FORM}, or off for no bound", given=value)
    return share


def text(value: object) -> str:
    """Return one line of printable text."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise BadValue("not text", "write a text", given=value)
    if not value.strip():
        raise BadValue("empty", "write a text", given=value)
    # Lone surrogates in this range stand for undecodable bytes of a path or variable.
    if len(value) > MAX_TEXT or not (
        value.isprintable() or all(c.isprintable() or "\udc80" <= c <= "\udcff" for c in value)
    ):
        raise BadValue("not one line of printable text", f"at most {MAX_TEXT} characters", given=value)
    return value


def choice(what: str, *known: str) -> Parser:
    """Return a parser of one word out of `known`."""

    def parse_choice(value: object) -> str:
        if isinstance(value, str) and value in known:
            return value
        suggestion = nearest(value, known) if isinstance(value, str) else None
        raise BadValue(f"unknown {what}", f"known: {', '.join(known)}", given=value, suggestion=suggestion)

    return parse_choice


def environments(value: object) -> object:
    """Return the names of environments as a tuple; None, every environment."""
    if value is None:
        return None
    form = "write a list such as [dev, prod]; leave env out for its default"
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple, set, frozenset)):
        raise BadValue("not a list of environments", form, given=value)
    if not items:
        raise BadValue("an empty list would never be active", f"{form}, or enabled: false", given=value)
    names = []
    for index, item in enumerate(items):
        name = environment_problem(item)
        if name:
            raise BadValue(name, form, given=item, path=() if items is not value else (index,))
        names.append(str(item).strip())
    return tuple(dict.fromkeys(names))


def environment_problem(value: object) -> str:
    """Return what is wrong with the name of an environment, or an empty text."""
    if not isinstance(value, str) or not value.strip():
        return "not the name of an environment"
    if not value.isprintable() or any(c.isspace() or c in ",:;[]{}" for c in value.strip()):
        return "the name of an environment is one word"
    return ""


def environment(value: object) -> str:
    """Return the name of one environment."""
    problem = environment_problem(value)
    if problem:
        raise BadValue(problem, "write a name such as dev, test or prod", given=value)
    return str(value).strip()


def user_metadata(value: object) -> dict[str, object]:
    """Return a copy of a mapping of at most 16 names to scalars."""
    form = "write name: value pairs, the values text, numbers or true/false"
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BadValue("not a mapping", form, given=value)
    if len(value) > MAX_METADATA_KEYS:
        raise BadValue(f"too many keys ({len(value)})", f"at most {MAX_METADATA_KEYS}")
    for key, item in value.items():
        if not isinstance(key, str) or not key.isprintable():
            raise BadValue("not a name", form, given=key)
        if item is not None and not isinstance(item, (str, int, float)):
            raise BadValue("a value that is not a scalar", form, given=item, path=(key,))
    return dict(value)


def output_path(value: object) -> str:
    """Return a path pattern for artefacts; placeholders are checked, relative paths must stay inside."""
    path = text(value)
    form = "known: " + " ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    rest = path
    while (start := rest.find("{")) >= 0:
        end = rest.find("}", start)
        name = rest[start + 1 : end] if end > 0 else rest[start + 1 :]
        if end < 0 or name not in PLACEHOLDERS:
            meant = nearest(name, PLACEHOLDERS)
            raise BadValue(
                "unknown placeholder", form, given=value, suggestion=f"{{{meant}}}" if meant else None
            )
        rest = rest[end + 1 :]
    if "}" in rest:
        raise BadValue("a } without {", form, given=value)
    if not os.path.isabs(path) and ".." in path.replace("\\", "/").split("/"):
        raise BadValue(
            "a relative path lies in the output folder", "write an absolute path to leave it", given=value
        )
    if path.endswith(("/", "\\")):
        raise BadValue("a folder", "write the path of a file", given=value)
    return path


def file_mode(value: object) -> int:
    """Return permission bits of files: octal digits, `0600` or `0o640`."""
    form = "write octal digits such as 0600 or 0640; the owner must be able to read and write"
    mode = value if isinstance(value, int) and not isinstance(value, bool) else -1
    if isinstance(value, str):
        digits = value[2:] if value[:2].lower() == "0o" else value
        mode = int(digits, 8) if digits and set(digits) <= set("01234567") and len(digits) <= 4 else -1
    if not 0 <= mode <= 0o777 or mode & 0o600 != 0o600:
        raise BadValue("not the mode of a file", form, given=value)
    return mode


def schema_version(value: object) -> int:
    """Return the version of the policy language; this autoprof reads 1."""
    if value in (1, "1") and not isinstance(value, (bool, float)):
        return 1
    raise BadValue("unknown version of the policy language", "this autoprof reads version: 1", given=value)


def globs(value: object) -> tuple[str, ...]:
    """Return globs over program names as a tuple."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, (list, tuple)):
        raise BadValue(
            "not a glob or a list of globs", 'write a list such as ["gunicorn*", "python*"]', given=value
        )
    if not items:
        raise BadValue(
            "an empty list would leave every program out", "leave programs out for all", given=value
        )
    for index, item in enumerate(items):
        try:
            text(item)
        except BadValue as error:
            error.path = (index,) if items is value else ()
            raise
    return tuple(items)
