"""Every exception autoprof raises on purpose.

AutoprofError
├── BadValue          one value that can't be used (also a ValueError); internal carrier of what, given, right
│   └── UnitError     a duration, size, share or boolean that can't be read
├── OptionError       a decorator's options (also a ValueError)
├── PolicyError       one problem of a policy file, with its place
├── PolicyErrors      all problems of a policy file
├── StoreError        the store can't be read or written
├── NoData            nothing was measured under what was asked for
└── Ambiguous         what was asked for names several things
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN_CHARACTERS = 80


def printable(text: str, limit: int = 0) -> str:
    """Return text on one line: control characters and lone surrogates escaped, cut after `limit`."""
    cut = text[:limit] if limit else text
    if not cut.isprintable():
        cut = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut)
    return cut + "…" if len(cut) and limit and len(text) > limit else cut


def safe_repr(value: object) -> str:
    """Return `repr(value)`, or the type's name where that fails."""
    try:
        return repr(value)
    except Exception:  # a foreign __repr__, or an int of more than 4 300 digits
        return f"a value of type {type(value).__name__}"


def shown(value: object) -> str:
    """Return a value as an error message shows it: quoted, one line, at most 80 characters."""
    text = value if isinstance(value, str) else safe_repr(value)
    cut = printable(text, _SHOWN_CHARACTERS)
    return f"'{cut}'" if isinstance(value, str) else cut


def told(problem: str, given: str | None, right: str, suggestion: str | None) -> str:
    """Return one sentence: what is wrong, what was given, what would be right, and the likely meaning."""
    parts = [problem]
    if given is not None:
        parts.append(f", given {given}")
    if right:
        parts.append(f"; {right}")
    if suggestion is not None:
        parts.append(f" (did you mean {printable(suggestion, _SHOWN_CHARACTERS)}?)")
    return "".join(parts)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word most like `word`, or None. Imports difflib: only for error messages."""
    from difflib import get_close_matches  # start-up budget

    words = {name.lower(): name for name in known}
    found = get_close_matches(word.lower().replace("-", "_")[:64], words, n=1, cutoff=0.6)
    if found:
        return words[found[0]]
    parts = [name for key, name in words.items() if len(word) > 2 and word.lower() in key.split("_")]
    return parts[0] if len(parts) == 1 else None


class AutoprofError(Exception):
    """Base class of every exception autoprof raises on purpose."""


class BadValue(AutoprofError, ValueError):
    """One value that can't be used.

    `problem` and `right` never quote the value (it may come from the environment and be secret);
    `given` and `suggestion` may, and are left out or replaced by the text as written where that matters.
    `path` leads from an option's value to the part that is wrong, for example `(2,)` in a list.
    """

    def __init__(
        self,
        problem: str,
        right: str = "",
        *,
        given: object = None,
        suggestion: str | None = None,
        path: tuple[int | str, ...] = (),
    ) -> None:
        super().__init__(problem, right)
        self.problem = problem
        self.right = right
        self.given = given
        self.suggestion = suggestion
        self.path = path

    def __str__(self) -> str:
        given = None if self.given is None else shown(self.given)
        return told(self.problem, given, self.right, self.suggestion)


class UnitError(BadValue):
    """A duration, size, share or boolean that can't be read; the message names the right unit."""


class OptionError(AutoprofError, ValueError):
    """A decorator's options: every problem in one message."""


class PolicyError(AutoprofError):
    """One problem of a policy file: `FILE:LINE:COL: message`.

    `line` and `column` count from 1; 0 means that the policy did not come from text.
    """

    def __init__(self, file: str, line: int, column: int, message: str) -> None:
        super().__init__(file, line, column, message)
        self.file = file
        self.line = line
        self.column = column
        self.message = message

    def __str__(self) -> str:
        place = f"{printable(self.file)}:{self.line}:{self.column}" if self.line else printable(self.file)
        return f"{place}: {self.message}"


class PolicyErrors(AutoprofError):
    """All problems of a policy file, in the order of the file; `str()` gives one line each."""

    def __init__(self, errors: Iterable[PolicyError]) -> None:
        self.errors: tuple[PolicyError, ...] = tuple(errors)
        super().__init__(self.errors)

    def __str__(self) -> str:
        return "\n".join(map(str, self.errors))


class StoreError(AutoprofError):
    """The store can't be read or written."""


class NoData(AutoprofError):
    """Nothing was measured under what was asked for."""


class Ambiguous(AutoprofError):
    """What was asked for names several things where one is needed."""
