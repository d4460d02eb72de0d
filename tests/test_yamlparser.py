"""The short way to YAML's events: the same as libyaml's, and without `yaml`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoprof import config, yamlparser
from autoprof.errors import PolicyErrors

CONFIGS = sorted((Path(__file__).resolve().parent.parent / "config").glob("*.yaml"))
TEXTS = [path.read_text("utf-8") for path in CONFIGS]
PIECES = [
    "version: 1\n", "rules:\n", "  - ", "match: ", "a:b", "*a", "&a ", "<<: ", "!x ", "!!str ", "[", "]", "{", "}", ", ",
    ": ", ":", "-", "\n", "\n    ", "'", '"', "''", "#", " #", "|\n", "|-\n", ">+\n", "%YAML 1.1\n", "@", "\t", "${A}",
    "1", "off", "~", "\u2028", "\x85", "\xa0", "é", "\U0001f600", "\r", "\r\n", "? ", "---\n", "...\n",
]  # fmt: skip


def told(way: yamlparser.Yaml, text: str) -> list[tuple[Any, ...]] | None:
    """Return kind, value, style and place of every event; None where the text is no YAML to this parser."""
    loader = way.loader(text)
    events = []
    try:
        while loader.check_event():
            event = loader.get_event()
            value = getattr(event, "value", None)
            mark = event.start_mark
            # Where a value that is not there begins is a matter of opinion.
            place = (mark.line, mark.column, mark.index) if value else ()
            if type(event).__name__ in ("ScalarEvent", "MappingStartEvent", "SequenceStartEvent", "AliasEvent"):
                name = type(event).__name__
                events.append((name, value, getattr(event, "tag", None), event.anchor, *place))
    except Exception:
        return None
    finally:
        loader.dispose()
    return events


@st.composite
def texts(draw: st.DrawFn) -> str:
    """Make a text of pieces, or one of our policies with something put in or taken out."""
    if draw(st.booleans()):
        return "".join(draw(st.lists(st.sampled_from(PIECES), max_size=25))) + "\n"
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(text)))
        text = text[:at] + draw(st.sampled_from(["", *PIECES])) + text[at + draw(st.integers(0, 4)) :]
    return text + "\n"


@given(texts())
@example("a: 'one\n\n  two'\nb: |2\n   x\n\n  y\n")
@example("a: {b: [c, d: e], 'f': \"g\"}\r\nh: >-\r\n  i\r\n  j\r\n")
@settings(max_examples=600, deadline=None)
def test_the_events_are_those_of_the_whole_library(text: str) -> None:
    parts = yamlparser.parts()
    assert parts is not None
    if not yamlparser.suits_parts(text) or yamlparser.unprintable(text) is not None:
        return
    ours, theirs = told(parts, text), told(yamlparser.whole(), text)
    assert ours is None or theirs is None or ours == theirs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_our_policies_are_read_the_short_way(path: Path) -> None:
    text = path.read_text("utf-8")
    parts = yamlparser.parts()
    assert parts is not None and yamlparser.suits_parts(text)
    assert told(parts, text) == told(yamlparser.whole(), text) is not None


@pytest.mark.parametrize("text", ["a: '\\'", 'a: "\\ud800"', "a\n\ufeffb", "# " + "x" * yamlparser.SHORT])
def test_what_the_parsers_may_read_differently_is_left_to_the_whole(text: str) -> None:
    assert not yamlparser.suits_parts(text)


@given(st.text())
@settings(max_examples=300)
def test_what_yaml_forbids_is_found(text: str) -> None:
    import yaml

    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    assert yamlparser.unprintable(text) == (found.start() if found else None)


def test_every_character_is_judged_as_yaml_does() -> None:
    import yaml

    everything = "".join(map(chr, range(sys.maxunicode + 1)))
    forbidden = set(yaml.reader.Reader.NON_PRINTABLE.findall(everything))
    assert {each for each in everything if yamlparser.unprintable(each) is not None} == forbidden


PROGRAM = """\
import sys
from autoprof import config
text = open(sys.argv[1], "rb").read()
config.loads(text, filename="policy.yaml", env={})
print(sorted({"yaml", "re", "enum"} & set(sys.modules)))
import yaml
print(yaml.safe_load("a: [1]"), yaml.scanner is not sys.modules["autoprof._yaml.scanner"])
"""


def test_yaml_itself_is_left_to_the_application() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, CONFIGS[0]], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n{'a': [1]} True\n"


def test_another_pyyaml_is_asked_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    load = yamlparser.importing.load

    def broken(name: str) -> ModuleType:
        if name.startswith(yamlparser.PARTS):
            raise ImportError(name)
        return load(name)  # type: ignore[no-any-return]

    monkeypatch.setattr(yamlparser.importing, "load", broken)
    monkeypatch.setattr(yamlparser, "_parts", None)
    monkeypatch.setattr(yamlparser, "_broken", False)
    assert yamlparser.parts() is None
    policy = config.loads("version: 1\nrules: [{match: 'a:b', policy: none}]\n", filename="p.yaml", env={})
    assert len(policy.rules) == 1


PROGRAM_THAT_FORKS = """\
import os, sys, threading, time
from autoprof import config, importing

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name == "yaml.tokens":
            reached.set()
            time.sleep(0.3)

reached = threading.Event()
sys.meta_path.insert(0, Slow())
os.register_at_fork(before=importing.hold, after_in_parent=importing.release, after_in_child=importing.release)

def read():
    try:
        config.loads("version: [", filename="policy.yaml", env={})
    except Exception:
        pass

thread = threading.Thread(target=read)
thread.start()
assert reached.wait(20)
child = os.fork()
if child == 0:
    read()
    os._exit(0 if "yaml.tokens" in sys.modules else 1)
deadline = time.monotonic() + 20
while time.monotonic() < deadline:
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        print("child", status)
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    print("hangs")
thread.join()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_forked_while_an_error_is_told_reads_policies_too() -> None:
    """Its importlib would wait for a thread that it does not have."""
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM_THAT_FORKS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "child 0\n", done.stderr


def test_an_error_is_told_in_the_words_of_the_whole_library() -> None:
    text = "version: 1\nrules: [\n"
    with pytest.raises(PolicyErrors) as short:
        config.loads(text, filename="p.yaml", env={})
    with pytest.raises(PolicyErrors) as long:
        config.loads(text + "\n" + "#" * yamlparser.SHORT, filename="p.yaml", env={})
    assert [error.message for error in short.value.errors] == [error.message for error in long.value.errors]
