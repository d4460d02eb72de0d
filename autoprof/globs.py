"""Globs over modules and functions: `module glob:qualified-name glob`."""

from __future__ import annotations

import sys

from autoprof.errors import BadValue

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Matcher = Callable[[str], bool]

MATCH_FORM = "write 'module glob:function glob', for example 'shop.payments:*'"
MAX_GLOB = 1_000
_STDLIB = sys.stdlib_module_names


def compile_glob(glob: str) -> Matcher:
    """Return a test equal to `fnmatch.fnmatchcase(name, glob)`; the usual shapes need no regex."""
    if not glob.isascii():
        from unicodedata import normalize  # start-up budget; identifiers are kept in NFKC

        glob = normalize("NFKC", glob)
    if "?" in glob or "[" in glob:
        return _regex(glob)
    parts = glob.split("*")
    if len(parts) == 1:
        return glob.__eq__
    first, last, middle = parts[0], parts[-1], [part for part in parts[1:-1] if part]
    if middle:
        return _stars(first, middle, last)
    if not last:
        return (lambda name: name.startswith(first)) if first else _always
    if not first:
        return lambda name: name.endswith(last)
    least = len(first) + len(last)
    return lambda name: len(name) >= least and name.startswith(first) and name.endswith(last)


def _always(name: str) -> bool:
    return True


def _regex(glob: str) -> Matcher:
    from fnmatch import translate  # start-up budget
    from re import compile as compile_regex

    match = compile_regex(translate(glob)).match
    return lambda name: match(name) is not None


def _stars(first: str, middle: list[str], last: str) -> Matcher:
    def match(name: str) -> bool:
        end = len(name) - len(last)
        at = len(first)
        if end < at or not name.startswith(first) or not name.endswith(last):
            return False
        for part in middle:
            at = name.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return match


class Pattern:
    """One `module glob:qualified-name glob`; raises BadValue for what can never match or is no glob."""

    __slots__ = ("angle", "matches_name", "module", "module_test", "package", "qualname", "stars", "text")

    def __init__(self, text: str) -> None:
        problem = glob_problem(text)
        if problem is not None:
            raise problem
        self.text = text
        self.module, _, self.qualname = text.partition(":")
        self.angle = "<" in self.qualname
        self.package = _package(self.module)  # the only top-level package it can reach; empty: several
        self.stars = self.module.startswith("*")
        self.module_test = compile_glob(self.module)
        self.matches_name = compile_glob(self.qualname)

    def __repr__(self) -> str:
        return f"Pattern({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pattern) and other.text == self.text

    def __hash__(self) -> int:
        return hash(self.text)

    def matches_module(self, module: str) -> bool:
        """Tell whether the module glob reaches a module; a leading `*` leaves out the standard library."""
        if self.stars and module.partition(".")[0] in _STDLIB:
            return False
        return self.module_test(module)

    def matches(self, module: str, qualname: str) -> bool:
        """Tell whether the pattern selects a function; lambdas and comprehensions only where it says `<`."""
        last = qualname.rpartition(".")[2]
        if never_matched(last) or (last.startswith("<") and not self.angle):
            return False
        return self.matches_module(module) and self.matches_name(qualname)


def _package(module_glob: str) -> str:
    first = module_glob.partition(".")[0]
    return "" if not first.isascii() or any(sign in first for sign in "*?[") else first


def never_matched(last_name: str) -> bool:
    """Tell whether code of this (last) name is no function of the application."""
    return last_name == "__annotate__" or last_name.startswith(("<module", "<generic parameters"))


def glob_problem(text: object) -> BadValue | None:
    """Return what is wrong with a `module:function` glob, or None."""
    if not isinstance(text, str):
        return BadValue("not a glob", MATCH_FORM, given=text)
    problem, suggestion = _glob_shape(text)
    if not problem:
        module, _, qualname = text.partition(":")
        problem = _side_problem(module, "-", "module") or _side_problem(qualname, "<>", "function")
        if problem and ("/" in module or module.endswith(".py")):
            dotted = module.removesuffix(".py").replace("/", ".").strip(".")
            problem, suggestion = "a module is a dotted name, not a path", f"'{dotted}:{qualname}'"
        elif problem and qualname.endswith("()"):
            suggestion = f"'{module}:{qualname[:-2]}'"
    return BadValue(problem, MATCH_FORM, given=text, suggestion=suggestion) if problem else None


def _glob_shape(text: str) -> tuple[str, str | None]:
    if len(text) > MAX_GLOB:
        return f"a glob of {len(text)} characters (at most {MAX_GLOB})", None
    if not text.strip():
        return "an empty glob", None
    if any(c.isspace() for c in text):
        return "a glob holds no space; several globs are a list", None
    if ":" not in text:
        return "a glob without a colon", f"'{text}:*'"
    if text.count(":") > 1:
        return "a glob with more than one colon", f"'{text.replace('::', ':')}'" if text.count(
            "::"
        ) == 1 else None
    module, _, qualname = text.partition(":")
    if not module:
        return "no module before the colon", f"'*:{qualname}'"
    return ("", None) if qualname else ("no function after the colon", f"'{module}:*'")


def _side_problem(glob: str, extra: str, what: str) -> str:
    """Return why one side can never match a name, or an empty text."""
    if glob.startswith(".") or glob.endswith(".") or ".." in glob:
        return f"the {what} glob has an empty part beside a dot, it can never match"
    if what == "function" and any("0" <= part[:1] <= "9" for part in glob.split(".")):
        return "the function glob can never match: no name starts with a digit"
    at = 0
    while at < len(glob):
        char = glob[at]
        if char == "[":
            start = at + 2 if glob[at + 1 : at + 2] == "!" else at + 1
            close = glob.find("]", start + 1)
            if close < 0:
                return f"the {what} glob has a [ without its ]"
            inside = glob[start:close]
            if any(
                c == "-" and 0 < i < len(inside) - 1 and inside[i - 1] > inside[i + 1]
                for i, c in enumerate(inside)
            ):
                return f"the {what} glob has an empty range in [ ]"
            at = close
        elif not (char in ".*?" or char in extra or f"a{char}".isidentifier()):
            return f"the {what} glob has a character that no name has"
        at += 1
    return ""
