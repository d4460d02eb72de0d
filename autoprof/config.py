"""Reading a policy file: text → Policy, or every error with its line and column.

The text is read as YAML events, not as objects: no tag makes anything, nesting and aliases are bounded,
and every value keeps its place and its spelling.
"""

from __future__ import annotations

import os
import stat

from autoprof import yamlparser
from autoprof.document import (
    MAX_DEPTH,
    MAX_NODES,
    Mapping,
    Node,
    Problems,
    Scalar,
    Sequence,
    fill,
    from_python,
)
from autoprof.errors import PolicyError, PolicyErrors, nearest, shown
from autoprof.validate import build
from autoprof.yamltext import STAR, place, syntax_message, unquoted_star, word_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping as Environment
    from typing import Any

    from autoprof.policy import Policy
    from autoprof.yamlparser import Yaml

MAX_BYTES = 1 << 20
MAX_BYTES_SLOW = 1 << 17  # without libyaml, which reads 40 times faster
MAX_REPAIRS = 20
_CORE = "tag:yaml.org,2002:"
_TAGS = frozenset(_CORE + name for name in ("str", "int", "float", "bool", "null", "seq", "map"))


def load(path: str, *, env: Environment[str, str], env_name: str | None = None) -> Policy:
    """Read a policy file.

    Args:
        path: the file; errors name it as given.
        env: the process's environment, for `${VAR}`, AUTOPROF_ENV and AUTOPROF_OUTPUT.
        env_name: the environment's name; beats AUTOPROF_ENV and the file.

    Raises:
        PolicyErrors: everything that is wrong with the file.
        OSError: the file can't be read.
    """
    return loads(read(path), filename=path, env=env, env_name=env_name)


def read(path: str) -> bytes:
    """Return the bytes of a policy file, one more than MAX_BYTES at most.

    Raises:
        PolicyErrors: root must not obey it, since others can write it.
        OSError: the file can't be read.
    """
    with open(path, "rb") as file:
        reason = _why_untrusted(path, os.fstat(file.fileno()))
        if reason:
            raise _fatal(path, 1, 1, reason)
        return file.read(MAX_BYTES + 1)


def _why_untrusted(path: str, status: os.stat_result) -> str:
    """Return why root must not obey this file; "" where it may, and for every other user.

    The owner is trusted, whoever that is: in containers files often belong to the host's user.
    """
    if getattr(os, "geteuid", lambda: 1)() or not stat.S_ISREG(status.st_mode):
        return ""
    folder = os.path.dirname(os.path.realpath(path))
    for what, each in (("file", status), ("folder", os.stat(folder))):
        if what == "folder" and each.st_mode & stat.S_ISVTX:
            continue  # only the owner can replace the file there
        if each.st_mode & stat.S_IWOTH:
            who, cure = "everybody", "o-w"
        elif each.st_mode & stat.S_IWGRP and each.st_gid:
            who, cure = f"group {each.st_gid}", "g-w"
        else:
            continue
        place = path if what == "file" else folder
        return f"refused: as root, and {who} can write the {what}; do this: chmod {cure} {shown(place)}"
    return ""


def loads(
    text: str | bytes, *, filename: str, env: Environment[str, str], env_name: str | None = None
) -> Policy:
    """Read a policy from text; see `load`.

    Raises:
        PolicyErrors: everything that is wrong with the text.
    """
    problems = Problems(filename)
    root = _Reader(_decode(text, filename), problems, env).read()
    return build(root, problems, env=env, env_name=env_name, path=filename)


def from_mapping(
    policy: object, *, env: Environment[str, str], env_name: str | None = None, filename: str = "<policy>"
) -> Policy:
    """Make a policy of Python values with the keys of the file (`autoprof.start({...})`).

    Raises:
        PolicyErrors: everything that is wrong; a path such as `rules[0].rate` stands for line and column.
    """
    problems = Problems(filename)
    root = from_python(policy, problems, env)
    return build(root, problems, env=env, env_name=env_name, path=None)


def _decode(data: str | bytes, file: str) -> str:
    """Return the text, or raise PolicyErrors for what is no YAML text at all."""
    limit = MAX_BYTES if len(data) <= MAX_BYTES_SLOW or yamlparser.is_fast() else MAX_BYTES_SLOW
    if len(data) > limit:
        raise _fatal(
            file, 1, 1, f"the file is larger than {limit >> 10} KiB; a policy file is a few kilobytes"
        )
    if isinstance(data, bytes):
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise _fatal(file, 1, 1, "the file is in UTF-16 or UTF-32; save it as UTF-8")
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            before = data[: error.start].decode("utf-8")
            line, column = place(before, len(before))
            byte = f"byte 0x{data[error.start]:02x} at offset {error.start}"
            raise _fatal(file, line, column, f"not UTF-8: {byte}; save the file as UTF-8") from None
    else:
        text = data
    text = text.removeprefix("\ufeff")
    odd = yamlparser.unprintable(text)
    if odd is not None:
        line, column = place(text, odd)
        character = f"the character U+{ord(text[odd]):04X}"
        message = f"binary data: {character} can't be in a policy file; is it a text file?"
        raise _fatal(file, line, column, message)
    if not text.strip():
        raise _fatal(file, 1, 1, "the file is empty; a policy starts with version: 1")
    return text


def _fatal(file: str, line: int, column: int, message: str) -> PolicyErrors:
    return PolicyErrors([PolicyError(file, line, column, message)])


class _Stop(Exception):
    """Nothing more can be read; the problem is noted."""


class _Reader:
    """Turns YAML events into nodes; notes what is wrong in `problems` and goes on where it can."""

    def __init__(self, text: str, problems: Problems, env: Environment[str, str]) -> None:
        self.text = text
        self.problems = problems
        self.env = env
        self.syntax: list[tuple[int, int, str]] = []

    def read(self) -> Node:
        """Return the root; raises PolicyErrors where the text can't be read to its end."""
        text = self.text
        parts = yamlparser.parts() if yamlparser.suits_parts(text) else None
        if parts is not None:
            try:
                return self._tree(text, parts)
            except _Stop:
                self.problems.raise_any()
            except Exception:
                pass  # what is wrong is told in the words of the whole library
        yaml = yamlparser.whole()
        for _ in range(MAX_REPAIRS):
            self.problems.found.clear()
            for note in self.syntax:
                self.problems.at(*note)
            try:
                return self._tree(text, yaml)
            except _Stop:
                self.problems.raise_any()
            except yaml.error as error:
                repaired = self._repair(text, error)
                if repaired is None:
                    break
                text = repaired
        self.problems.raise_any()
        raise AssertionError("unreachable")

    def _repair(self, text: str, error: Any) -> str | None:
        """Note a syntax error; return the text with the unquoted star that caused it replaced, if one did."""
        mark = error.problem_mark or error.context_mark
        index = mark.index if mark else len(text)
        line, column = (mark.line + 1, mark.column + 1) if mark else place(text, len(text))
        star = unquoted_star(text, index)
        if star is None:
            self._note(line, column, syntax_message(self.text, error, index))
            return None
        line, column = place(text, star)
        given = shown(word_at(self.text, star))
        self._note(
            line, column, f"an unquoted * starts an alias in YAML, given {given}; put the glob in quotes"
        )
        return text[:star] + STAR + text[star + 1 :]

    def _note(self, line: int, column: int, message: str) -> None:
        self.syntax.append((line, column, message))
        self.problems.at(line, column, message)

    def _tree(self, text: str, yaml: Yaml) -> Node:
        loader = yaml.loader(text)
        tree = _Tree(self.text, self.problems, self.env, yaml.events)
        try:
            while loader.check_event():
                tree.feed(loader.get_event())
        finally:
            loader.dispose()
        if tree.root is None:
            self.problems.at(1, 1, "the file holds no policy, only comments; a policy starts with version: 1")
            raise _Stop
        return tree.root


class _Tree:
    """Builds nodes from YAML events, one at a time, without recursion."""

    def __init__(self, text: str, problems: Problems, env: Environment[str, str], events: Any) -> None:
        self.root: Node | None = None
        self._text = text
        self._problems = problems
        self._env = env
        self._events = events
        self._open: list[Mapping | Sequence] = []
        self._keys: list[Node | None] = []
        self._anchors: dict[str, Node] = {}
        self._size = 0

    def feed(self, event: Any) -> None:
        """Take one event in."""
        yaml = self._events
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event), event.anchor)
        elif isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            self._start(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._end()
        elif isinstance(event, yaml.AliasEvent):
            self._add(self._alias(event), None)
        elif isinstance(event, yaml.DocumentStartEvent) and self.root is not None:
            self._stop(event, "a second document; a policy file holds one: remove the line ---")

    def _stop(self, event: Any, message: str) -> None:
        mark = event.start_mark
        self._problems.at(mark.line + 1, mark.column + 1, message)
        raise _Stop

    def _scalar(self, event: Any) -> Scalar:
        start = event.start_mark
        raw = self._text[start.index : event.end_mark.index]
        value = event.value.replace(STAR, "*") if STAR in event.value and STAR not in raw else event.value
        plain = not event.style and event.tag != _CORE + "str"
        node = Scalar(value, raw, plain=plain, line=start.line + 1, column=start.column + 1)
        if event.tag is not None:
            self._check_tag(event, node)
        if "$" in value:
            fill(node, self._problems, self._env)
        return node

    def _check_tag(self, event: Any, node: Node) -> None:
        tag: str = event.tag
        if tag in _TAGS or (tag == "!" and isinstance(node, Scalar)):
            return
        short = "!!" + tag.removeprefix(_CORE) if tag.startswith(_CORE) else tag
        self._problems.add(
            node, "a tag", shown(short), "a policy needs no tags: remove it, or quote a value with !"
        )
        if isinstance(node, Scalar):
            node.bad = True

    def _start(self, event: Any) -> None:
        if len(self._open) >= MAX_DEPTH:
            self._stop(event, f"nested more than {MAX_DEPTH} deep; a policy needs 4 levels")
        mark = event.start_mark
        kind = Mapping if isinstance(event, self._events.MappingStartEvent) else Sequence
        node: Mapping | Sequence = kind(mark.line + 1, mark.column + 1)
        if event.tag is not None:
            self._check_tag(event, node)
        self._add(node, event.anchor)
        self._open.append(node)
        self._keys.append(None)

    def _end(self) -> None:
        node = self._open.pop()
        self._keys.pop()
        if isinstance(node, Mapping):
            _merge(node, self._problems)
            _report_duplicates(node, self._problems)
        if self._open:
            self._open[-1].size += node.size - 1

    def _alias(self, event: Any) -> Node:
        mark = event.start_mark
        name = f"*{event.anchor}"
        node = self._anchors.get(event.anchor)
        if isinstance(node, (Mapping, Sequence)) and not any(one is node for one in self._open):
            return node
        copy = Scalar(None, name, line=mark.line + 1, column=mark.column + 1)
        if isinstance(node, Scalar):
            copy.value, copy.plain = node.value, node.plain
            copy.substituted, copy.bad = node.substituted, node.bad
            return copy
        copy.bad = True
        if node is None:
            meant = nearest(event.anchor, self._anchors)
            right = "a value that starts with * is an alias in YAML; put a glob in quotes"
            problem = "an alias of nothing"
            self._problems.add(copy, problem, shown(name), right, f"*{meant}" if meant else f"'{name}'")
        else:
            self._problems.add(copy, "an alias inside what it stands for", shown(name), "write the value out")
        return copy

    def _add(self, node: Node, anchor: str | None) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        self._size += node.size
        if self._size > MAX_NODES:
            message = f"more than {MAX_NODES} values, aliases written out; a policy has a few hundred"
            self._problems.at(node.line, node.column, message)
            raise _Stop
        if not self._open:
            self.root = node
            return
        parent = self._open[-1]
        if isinstance(parent, Sequence):
            parent.size += node.size
            parent.items.append(node)
        elif (key := self._keys[-1]) is None:
            self._keys[-1] = node
        else:
            parent.size += node.size
            self._keys[-1] = None
            if isinstance(key, Scalar):
                parent.pairs.append((key, node))
            else:
                self._problems.add(key, f"a {key.kind} as a key", None, "a key is one word")


def _merge(node: Mapping, problems: Problems) -> None:
    """Put the pairs of `<<: *anchor` where the mapping has no key of that name."""
    merges = [pair for pair in node.pairs if pair[0].plain and pair[0].value == "<<"]
    if not merges:
        return
    node.pairs = [pair for pair in node.pairs if pair not in merges]
    known = {key.value for key, _ in node.pairs}
    for key, value in merges:
        for source in value.items if isinstance(value, Sequence) else [value]:
            if not isinstance(source, Mapping):
                problems.add(
                    key, "<< merges a mapping", source.written(), "write <<: *name with an anchored mapping"
                )
                continue
            new = [pair for pair in source.pairs if pair[0].value not in known]
            known.update(pair[0].value for pair in new)
            node.pairs.extend(new)


def _report_duplicates(node: Mapping, problems: Problems) -> None:
    """Note keys that are there twice; the first one stays."""
    first: dict[object, Scalar] = {}
    pairs = []
    for key, value in node.pairs:
        earlier = first.setdefault(key.value, key)
        if earlier is key:
            pairs.append((key, value))
        else:
            problems.add(
                key, "a key that is there twice", key.written(), f"it is in line {earlier.line} already"
            )
    node.pairs = pairs
