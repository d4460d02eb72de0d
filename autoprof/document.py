"""A policy as a tree of nodes that know their place, and `${VAR}` substitution. Pure: no YAML, no file."""

from __future__ import annotations

from autoprof.errors import BadValue, PolicyError, PolicyErrors, printable, safe_repr, told

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping as Environment

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUES = frozenset({"true", "True", "TRUE", "yes", "Yes", "YES", "on", "On", "ON"})
FALSES = frozenset({"false", "False", "FALSE", "no", "No", "NO", "off", "Off", "OFF"})
MAX_PROBLEMS = 100
MAX_DEPTH = 50
MAX_NODES = 50_000
MAX_SUBSTITUTED = 10_000
_SHOWN = 80


class Node:
    """Where something stands: line and column from 1 (0: not from text), or a path as `rules[2].rate`."""

    __slots__ = ("column", "line", "path", "size")

    def __init__(self, line: int, column: int, path: str) -> None:
        self.line = line
        self.column = column
        self.path = path
        self.size = 1  # nodes in the subtree, aliases expanded

    kind = "nothing"

    def written(self) -> str | None:
        """Return the value as an error message shows it, or None where only the place says something."""
        return f"a {self.kind}"

    def python(self, typed: bool = False) -> object:
        """Return the value for a parser; `typed` with YAML's scalar types instead of the text."""
        raise NotImplementedError


class Scalar(Node):
    """One value: `value` is text, or a Python value that came from no text; `raw` the text as written."""

    __slots__ = ("bad", "plain", "raw", "substituted", "value")
    kind = "single value"

    def __init__(
        self,
        value: object,
        raw: str | None = None,
        *,
        plain: bool = True,
        line: int = 0,
        column: int = 0,
        path: str = "",
    ) -> None:
        super().__init__(line, column, path)
        self.value = value
        self.raw = raw
        self.plain = plain
        self.substituted = False
        self.bad = False  # already reported: say nothing more about it

    def written(self) -> str | None:
        raw = self.raw if self.raw is not None else self.value
        if not isinstance(raw, str):
            return printable(safe_repr(raw), _SHOWN)
        cut = printable(raw, _SHOWN)
        if not cut:
            return "nothing"
        return cut if cut[0] in "'\"" and self.line else f"'{cut}'"

    @property
    def null(self) -> bool:
        """Tell whether the value is YAML's null: nothing, `~` or `null`."""
        return self.value is None or (self.plain and self.value in NULLS)

    def python(self, typed: bool = False) -> object:
        if self.null:
            return None
        return resolve(self.value) if typed and self.plain and isinstance(self.value, str) else self.value


class Sequence(Node):
    """A list of nodes."""

    __slots__ = ("items",)
    kind = "list"

    def __init__(self, line: int = 0, column: int = 0, path: str = "") -> None:
        super().__init__(line, column, path)
        self.items: list[Node] = []

    def python(self, typed: bool = False) -> object:
        return [item.python(typed) for item in self.items]


class Mapping(Node):
    """Keys and values in the order of the text; a key may be there twice, which the reader reports."""

    __slots__ = ("pairs",)
    kind = "mapping"

    def __init__(self, line: int = 0, column: int = 0, path: str = "") -> None:
        super().__init__(line, column, path)
        self.pairs: list[tuple[Scalar, Node]] = []

    def python(self, typed: bool = False) -> object:
        return {str(key.value): value.python(typed) for key, value in self.pairs}


class Problems:
    """Collects what is wrong with a policy; at most 100 are kept, in the order of the text."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[PolicyError] = []
        self.full = False  # enough is wrong: readers may stop looking

    def add(
        self, node: Node, problem: str, given: str | None, right: str, suggestion: str | None = None
    ) -> None:
        """Note one problem at the place of a node."""
        message = told(problem, given, right, suggestion)
        self.at(node.line, node.column, f"{node.path}: {message}" if node.path else message)

    def bad(self, node: Node, error: BadValue, what: str = "") -> None:
        """Note a value that can't be used; shows the text as written, never what a variable held."""
        if isinstance(node, Scalar) and node.bad:
            return
        suggestion = None if isinstance(node, Scalar) and node.substituted else error.suggestion
        problem = f"{what}: {error.problem}" if what and not node.path else error.problem
        self.add(node, problem, node.written(), error.right, suggestion)

    def at(self, line: int, column: int, message: str) -> None:
        """Note one problem at a place."""
        self.full = len(self.found) >= MAX_PROBLEMS
        if not self.full:
            self.found.append(PolicyError(self.file, line, column, message))

    def raise_any(self) -> None:
        """Raise all problems together, if there are any."""
        if not self.found:
            return
        found = sorted(set_of_first(self.found), key=lambda error: (error.line, error.column))
        if self.full:
            last = found[-1]
            found.append(
                PolicyError(self.file, last.line, last.column, f"these are the first {MAX_PROBLEMS} errors")
            )
        raise PolicyErrors(found)


def set_of_first(errors: list[PolicyError]) -> list[PolicyError]:
    """Return the errors without repetitions (an alias can bring one part of a file up many times)."""
    return list({str(error): error for error in errors}.values())


def resolve(text: str) -> object:
    """Return a plain scalar with its type: null, boolean, decimal number, else the text.

    Unlike YAML 1.1: `1e-3` is a number; `1:30`, `0123`, `0x1F` and dates stay text, as they look.
    """
    if text in NULLS:
        return None
    if text in TRUES or text in FALSES:
        return text in TRUES
    digits = text.lstrip("+-")
    if not digits[:1].isascii() or not (digits[:1].isdigit() or digits[:1] == "."):
        return text
    try:
        if digits.isdecimal():
            leading_zero = len(digits) > 1 and digits[0] == "0"
            return text if leading_zero or len(digits) > 18 else int(text)
        number = float(text)
    except ValueError:
        return text
    return number if number - number == 0 and "_" not in text else text


def substitute(text: str, env: Environment[str, str]) -> str:
    """Replace `${VAR}`, `${VAR:-default}` and `$$`; other dollars stay.

    Raises:
        BadValue: a variable that is unset and has no default, or a form that is not one of these.
    """
    parts: list[str] = []
    at = 0
    while (dollar := text.find("$", at)) >= 0:
        parts.append(text[at:dollar])
        following = text[dollar + 1 : dollar + 2]
        at = dollar + 1
        if following == "$":
            parts.append("$")
            at += 1
        elif following == "{":
            close = text.find("}", dollar)
            if close < 0:
                raise BadValue("a ${ without its }", "write ${VAR} or ${VAR:-default}, and $$ for a dollar")
            parts.append(_variable(text[dollar + 2 : close], env))
            at = close + 1
        else:
            parts.append("$")
    parts.append(text[at:])
    whole = "".join(parts)
    if len(whole) > MAX_SUBSTITUTED:
        raise BadValue("too long after substitution", f"at most {MAX_SUBSTITUTED} characters")
    return whole


def _variable(inside: str, env: Environment[str, str]) -> str:
    name, sign, default = inside.partition(":-")
    if "${" in default:
        raise BadValue(
            "a variable inside the default of another", "write ${VAR:-default} with a plain default"
        )
    if not name.isascii() or not name.isidentifier():
        raise BadValue("not a variable", "write ${VAR} or ${VAR:-default}, and $$ for a dollar")
    value = env.get(name, "")
    if value or (name in env and not sign):
        return value
    if not sign:
        raise BadValue(
            f"the environment variable {name} is not set", f"set it, or write ${{{name}:-default}}"
        )
    return default


def fill(node: Scalar, problems: Problems, env: Environment[str, str]) -> None:
    """Replace the variables in a scalar; with one in it, it is typed again as if it were not quoted."""
    text = str(node.value)
    try:
        node.value = substitute(text, env)
    except BadValue as error:
        problems.bad(node, error)
        node.bad = True
        return
    if "${" in text.replace("$$", ""):
        node.substituted = node.plain = True


def from_python(policy: object, problems: Problems, env: Environment[str, str]) -> Node:
    """Return the tree of a policy made of Python values; nesting and size are bounded, so cycles end."""
    budget = [MAX_NODES]
    return _from_python(policy, "", problems, env, MAX_DEPTH, budget)


def _from_python(
    value: object, path: str, problems: Problems, env: Environment[str, str], depth: int, budget: list[int]
) -> Node:
    budget[0] -= 1
    node: Node
    if isinstance(value, (dict, list, tuple, set, frozenset)) and (depth <= 0 or budget[0] <= 0):
        node = Scalar(None, path=path)
        problems.add(
            node, "nested too deep, or too large", None, f"at most {MAX_DEPTH} levels, {MAX_NODES} values"
        )
        node.bad = True
    elif isinstance(value, dict):
        node = mapping = Mapping(path=path)
        for key, item in value.items():
            name = Scalar(key if isinstance(key, str) else safe_repr(key), path=path)
            inner = f"{path}.{name.value}" if path else str(name.value)
            mapping.pairs.append((name, _from_python(item, inner, problems, env, depth - 1, budget)))
    elif isinstance(value, (list, tuple, set, frozenset)):
        node = sequence = Sequence(path=path)
        for index, item in enumerate(value):
            inner = f"{path}[{index}]"
            sequence.items.append(_from_python(item, inner, problems, env, depth - 1, budget))
    else:
        node = Scalar(value, plain=False, path=path)
        if isinstance(value, str) and "$" in value:
            node.raw = value
            fill(node, problems, env)
    return node
