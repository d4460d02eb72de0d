"""What YAML's syntax errors mean in a policy file. Pure text: no YAML here."""

from __future__ import annotations

from autoprof.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class SyntaxProblem(Protocol):
        """What a YAML library's exception says."""

        context: str | None
        problem: str | None


# Stands in for a `*` that YAML would take for an alias: one character too, so that all places stay right.
STAR = "\u2217"
_OPENERS = "-:?[,{"
_SPECIAL = {
    "*": "is an alias",
    "&": "is an anchor",
    "!": "is a tag",
    "%": "is a directive",
    "@": "is reserved",
    "`": "is reserved",
    "[": "is a list",
    "{": "is a mapping",
    "|": "is a block of text",
    ">": "is a block of text",
}


def place(text: str, index: int) -> tuple[int, int]:
    """Return line and column, from 1, of an index."""
    return text.count("\n", 0, index) + 1, index - text.rfind("\n", 0, index)


def word_at(text: str, index: int) -> str:
    """Return the characters from an index to the next space or list sign."""
    end = index
    while end < len(text) and not text[end].isspace() and text[end] not in ",]}":
        end += 1
    return text[index:end]


def unquoted_star(text: str, index: int) -> int | None:
    """Return where a value in the line of `index`, or the one before, starts with an unquoted `*`."""
    start = text.rfind("\n", 0, index) + 1
    previous = text.rfind("\n", 0, max(start - 1, 0)) + 1
    end = text.find("\n", index)
    line_end = end if end >= 0 else len(text)
    for low, high in ((start, line_end), (previous, start)):
        at = text.find("*", low, high)
        while at >= 0:
            if _starts_value(text, low, at) and not _is_alias(text, at):
                return at
            at = text.find("*", at + 1, high)
    return None


def _starts_value(text: str, line_start: int, at: int) -> bool:
    before = text[line_start:at]
    bare = before.rstrip()
    if "#" in before or before.count("'") % 2 or before.count('"') % 2:
        return False
    if not bare:
        return True
    return bare[-1] in _OPENERS and (bare[-1] in "[,{" or len(bare) < len(before))


def _is_alias(text: str, at: int) -> bool:
    """Tell whether `*name` stands alone, as an alias does."""
    word = word_at(text, at)[1:]
    return bool(word) and word.replace("_", "a").replace("-", "a").isalnum()


def syntax_message(text: str, error: SyntaxProblem, index: int) -> str:
    """Return a YAML syntax error as one line, with what is likely to be wrong."""
    said = ", ".join(part for part in (error.context, error.problem) if part)
    return f"not YAML: {printable(said, 200)}; {_advice(text, error.problem or '', index)}"


def _advice(text: str, problem: str, index: int) -> str:
    start = text.rfind("\n", 0, index) + 1
    end = text.find("\n", index)
    line = text[start : end if end >= 0 else len(text)]
    value = line.partition(": ")[2].strip() or line.strip().removeprefix("- ")
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "indent with spaces, not with tabs"
    if "${" in line and _flow(line):
        return "inside [ ] and { } put ${…} in quotes"
    if "mapping values are not allowed" in problem:
        return "check the indentation, and quote a value that holds ': '"
    if not text[index:].strip():
        return "the file ends too early: is it half written?"
    if value[:1] in _SPECIAL and (value[0] not in "[{" or _goes_on(value)):
        return f"a value that starts with {value[0]} {_SPECIAL[value[0]]} in YAML: put it in quotes"
    return "check indentation, quotes and brackets here and in the line above"


def _goes_on(value: str) -> bool:
    """Tell whether a value is more than the list or mapping it starts with, as the glob `[ab]*:f` is."""
    rest = value.partition("]" if value[0] == "[" else "}")[2]
    return bool(rest) and rest[0] not in " ,]}#"


def _flow(line: str) -> bool:
    """Tell whether a `${` stands inside a list or mapping on one line."""
    before = line[: line.find("${")]
    return "[" in before or "{" in before
