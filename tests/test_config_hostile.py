"""Any file at all gives a clear message, and soon."""

from __future__ import annotations

import random
import re
import time

import pytest
from hypothesis import given as given_by
from hypothesis import settings
from hypothesis import strategies as st

from autoprof import config
from autoprof.errors import PolicyErrors
from tests.policy_texts import HEAD, WAYS, loads, parse_by

HOSTILE: dict[str, bytes] = {
    "empty": b"",
    "spaces": b"  \n \n",
    "only comments": b"# x\n",
    "only ---": b"---\n",
    "zeros": b"\0" * 100,
    "random": random.Random(1).randbytes(50_000),
    "latin 1": "version: 1 # \xe9".encode("latin-1"),
    "utf-16": "version: 1".encode("utf-16"),
    "utf-8 cut": "version: é".encode()[:-1],
    "surrogate": b"version: 1\nenv: \xed\xa0\x80\n",
    "escaped surrogate": b'version: 1\nenv: "\\ud800"\n',
    "escaped control": b'version: 1\nservice: "a\\x1b[31m\\n"\n',
    "10 MB": b"a: 1\n" * 2_000_000,
    "one long scalar": b"a" * 1_048_000,
    "one long string": b'version: 1\nservice: "' + b"x" * 1_000_000 + b'"',
    "dashes": b"- " * 500_000,
    "brackets": b"[" * 1_000_000,
    "braces": b"{a: " * 200_000,
    "deep blocks": b"".join(b" " * i + b"a:\n" for i in range(1_000)),
    "questions": b"? " * 400_000,
    "alias bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 9)) for c in b"bcdefghijkl"),
    "merge bomb": ("a: &a {" + ", ".join(f"k{i}: 1" for i in range(10_000)) + "}\n").encode()
    + b"".join(b"b%d: {<<: *a}\n" % i for i in range(1_000)),
    "many rules": HEAD.encode() + b"  - {match: a:b, policy: profile}\n" * 20_000,
    "many bad rules": HEAD.encode() + b"  - {match: ab, polcy: profile}\n" * 9_000,
    "many keys": b"".join(b"k%d: 1\n" % i for i in range(24_000)),
    "one key": b"k: 1\n" * 24_000,
    "many stars": HEAD.encode() + b"".join(b"  - match: *.a%d:*\n" % i for i in range(20_000)),
    "many anchors": b"rules:\n" + b"".join(b"- &a%d x\n" % i for i in range(24_000)),
    "many tags": b"rules:\n" + b"- !x y\n" * 24_000,
    "many newlines": b"\n" * 1_000_000 + b"version: 1",
    "dollars": b'version: 1\nservice: "' + b"${" * 400_000 + b'"',
    "growing": b'version: 1\nservice: "' + b"${BIG}" * 10_000 + b'"',
    "digits": b"version: 1\nbudget: " + b"9" * 1_000_000,
    "exclamation": b"!" * 1_000_000,
    "ampersands": b"&a " * 300_000,
    "pipes": b"|\n" * 500_000,
    "quotes": b"'" * 1_000_001,
    "flow keys": b"{" + b",".join([b"? a"] * 200_000) + b"}",
    "yaml 9.9": b"%YAML 9.9\n---\nversion: 1\n",
    "elf": b"\x7fELF\x02\x01\x01",
    "json": b'{"version": 2, "rules": [{"match": "a:b"}]}',
    "html": b"<html><body class='x'>404</body></html>",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_gives_a_message_and_soon(name: str) -> None:
    started = time.process_time()
    try:
        loads(HOSTILE[name], {"BIG": "x" * 50_000})
    except PolicyErrors as caught:
        lines = [str(error) for error in caught.errors]
    else:
        lines = []
    took_s = time.process_time() - started
    assert took_s < 10  # processor time; what these files are made for is minutes, or for ever
    assert lines or name == "many newlines"
    assert len(lines) <= 101
    for line in lines:
        assert re.match(r"p\.yaml:\d+:\d+: .", line)
        assert line.isprintable()
        assert len(line) < 700


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_without_libyaml(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse_by("pure", monkeypatch)
    data = HOSTILE[name]
    if 20_000 < len(data) <= config.MAX_BYTES_SLOW:
        data = data[:20_000]
    try:
        loads(data)
    except PolicyErrors as caught:
        assert all(re.match(r"p\.yaml:\d+:\d+: .", str(error)) for error in caught.errors)


PIECES = st.sampled_from(
    [
        "version: 1\n",
        "rules:\n",
        "  - ",
        "match: ",
        "policy: ",
        "profile",
        "none",
        "a:b",
        "*",
        "&a",
        "*a",
        "<<: ",
        "!x ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ": ",
        ":",
        "-",
        "\n",
        "\n    ",
        "'",
        '"',
        "#",
        "|",
        ">",
        "%",
        "@",
        "`",
        "\t",
        "${A}",
        "${",
        "$$",
        "1",
        "off",
        "~",
        "1:30",
        "rate: ",
        "env: ",
        "\u2028",
        "\x85",
        "\\",
        "é",
        "\U0001f600",
        "\r",
        "?",
        "---\n",
    ]
)


@given_by(st.lists(PIECES, max_size=30).map("".join))
@settings(max_examples=400, deadline=None)
def test_any_text_is_a_policy_or_policy_errors(text: str) -> None:
    for way in WAYS:
        with pytest.MonkeyPatch.context() as patch:
            parse_by(way, patch)
            try:
                loads(text, {"A": "x"})
            except PolicyErrors as caught:
                assert caught.errors
                assert all(str(error).isprintable() and error.line for error in caught.errors)


@given_by(st.one_of(st.binary(max_size=200), st.text(max_size=200)))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_policy_or_policy_errors(data: bytes | str) -> None:
    try:
        loads(data)
    except PolicyErrors as caught:
        assert caught.errors
