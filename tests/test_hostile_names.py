"""Hostile names through commands, signals and files: nothing steers a terminal, breaks a format or leaves the folder."""

from __future__ import annotations

import html.parser
import json
import os
import stat
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autoprof import artefacts, cli, session, signals
from autoprof.probe import Probe
from autoprof.store import Artefact, ProbeState
from tests.stored import HOSTILE, NOW_NS, delta, no_open_writers, stack, writer

__all__ = ["no_open_writers"]

ROOT = Path(__file__).resolve().parents[1]
POSIX = pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
EVIL = "m\x1b]0;x\x07\x9b31m\u202e</script>]]>&\"'\n:f\udc80"
NAMES = [EVIL, *[each for each in HOSTILE if each]]


@pytest.fixture
def folder(tmp_path: Path) -> str:
    made = writer(tmp_path / "out", EVIL)
    made.write(
        [
            delta(each, rule=each, policy=each, strategy=each, skipped={each: 1}, callees={each: 1})
            for each in NAMES
        ],
        [stack(each, *NAMES, target=each) for each in NAMES],
        [Artefact(each, each, each, each, each, each, NOW_NS) for each in NAMES],
        states=[ProbeState(each, each, each, each, each, each) for each in NAMES],
        now_ns=NOW_NS,
    )
    made.close(NOW_NS)
    return str(tmp_path / "out")


def said(capfdbinary: Any, *arguments: str) -> str:
    """Return what a command writes; all of it can be shown on a terminal."""
    cli.main(arguments)
    out, err = capfdbinary.readouterr()
    for each in (out.decode(), err.decode()):
        assert not [sign for sign in each if sign != "\n" and not sign.isprintable()], ascii(each)[:2000]
    assert len(err.decode().splitlines()) <= 3, err
    text: str = out.decode()
    return text


class Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.handlers: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.handlers += [name for name, _ in attrs if name.startswith("on")]


@pytest.mark.parametrize("kind", ["text", "json", "html", "svg", "collapsed", "speedscope"])
def test_reports(folder: str, kind: str, capfdbinary: Any) -> None:
    text = said(capfdbinary, "report", folder, "--format", kind, "--run", "all")
    assert text
    if kind in ("json", "speedscope"):
        json.loads(text)
    elif kind == "svg":
        ElementTree.fromstring(text)
    elif kind == "collapsed":
        assert all(line.rsplit(" ", 1)[1].isdigit() for line in text.splitlines())
    elif kind == "html":
        hostile, plain = Elements(), Elements()
        hostile.feed(text)
        made = writer(f"{folder}-plain", "r")
        made.write([delta("a:b")], [stack("a", "b", target="a:b")], now_ns=NOW_NS)
        made.close(NOW_NS)
        plain.feed(said(capfdbinary, "report", f"{folder}-plain", "--format", "html"))
        assert hostile.scripts == plain.scripts
        assert hostile.handlers == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("status", "FOLDER"),
        ("status", f"FOLDER/{EVIL}".replace("\udc80", "")),
        ("report", f"FOLDER/{EVIL}".replace("\udc80", "")),
        ("report", "FOLDER", "--run", EVIL),
        ("report", "FOLDER", "--target", EVIL),
        ("compare", EVIL, "*DROP*", "FOLDER"),
        ("compare", "*", "*", "FOLDER"),
        ("compare", "quote*", "semi*", "FOLDER", "--run", "all", "--policy", EVIL),
        ("explain", "POLICY", EVIL),
        ("explain", "POLICY", "a:b", "--env", EVIL),
        ("explain", EVIL, "a:b"),
        ("plan", "POLICY", EVIL),
        ("check", "POLICY", "--against", EVIL),
        ("check", EVIL),
        ("nonsense" + EVIL,),
    ],
)
def test_commands(folder: str, arguments: tuple[str, ...], tmp_path: Path, capfdbinary: Any) -> None:
    policy = tmp_path / "p.yaml"
    policy.write_text('version: 1\nrules:\n  - {match: "a:*", policy: profile}\n')
    filled = [each.replace("FOLDER", folder).replace("POLICY", str(policy)) for each in arguments]
    try:
        said(capfdbinary, *filled)
    except SystemExit:
        said(capfdbinary, "schema")


@POSIX
def test_doctor(folder: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: Any) -> None:
    policy = tmp_path / "p\x1b[31m\n.yaml"
    policy.write_text(
        f"version: 1\noutput: {json.dumps(folder)}\nservice: {{service: {json.dumps(EVIL[:-3])}}}\nrules: []\n"
    )
    monkeypatch.setenv("AUTOPROF_CONFIG", str(policy))
    monkeypatch.setenv("AUTOPROF_ENV", EVIL)
    assert "p\\x1b[31m" in said(capfdbinary, "doctor")


def test_doctor_names_the_internal_errors(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfdbinary: Any
) -> None:
    made = writer(tmp_path)
    states = [
        ProbeState("sampler\x1b[31m", "autoprof", "internal", "", "failed", "3 or more internal errors")
    ]
    made.write([delta()], states=states, now_ns=NOW_NS)
    made.close(NOW_NS)
    monkeypatch.setenv("AUTOPROF_OUTPUT", str(tmp_path))
    assert "in sampler\\x1b[31m: 3 or more internal errors" in said(capfdbinary, "doctor")


@pytest.mark.parametrize("rewrite", ["splice", "decorate"])
@pytest.mark.parametrize("name", NAMES)
def test_from_the_function_through_signals_to_the_status(
    name: str, rewrite: str, tmp_path: Path, capfdbinary: Any
) -> None:
    """The signal has the name as it is; what is shown has it escaped."""
    module_name = name.replace(":", "_").replace("\x00", "_")
    heard: list[str] = []

    def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
        heard.append(metadata["target"])

    source = "def f():\n    return 5\n"
    off = {"reload": "off", "budget": "off", "load": "off"}
    rules = [{"match": "*:f", "policy": "profile", "rate": 1.0}]
    session.start({"version": 1, "output": str(tmp_path / "out"), "rewrite": rewrite, **off, "rules": rules})
    assert session.current is not None
    module = ModuleType(module_name)
    sys.modules[module_name] = module
    try:
        installer = session.current.installer
        if rewrite == "splice":
            code = installer.rewrite_code(compile(source, "/nowhere/evil.py", "exec"), module_name)
        else:
            code = installer.rewrite_source(source, "/nowhere/evil.py", module_name)
        exec(code, module.__dict__)
        with signals.stop.connected_to(receiver):
            assert module.f() == 5
        session.current.flusher.flush()
    finally:
        sys.modules.pop(module_name, None)
        session.stop()
    assert f"{module_name}:f" in heard
    assert "profile" in said(capfdbinary, "status", str(tmp_path / "out"))


def probe(target: str, output: str | None) -> Probe:
    return Probe(target, "rule 1", "flame_graph", None, {"output": output} if output else {})


@pytest.mark.parametrize(
    "target", [*NAMES, "../../etc/passwd:f", "..:..", "a/b\\c:d", "/etc/passwd:x", "C:\\x"]
)
@pytest.mark.parametrize("output", ["{target}.svg", "x/{target}/y.svg", "{target}/{time}-{pid}.svg", None])
def test_a_target_in_output_does_not_leave_the_folder(
    target: str, output: str | None, tmp_path: Path
) -> None:
    path = artefacts.path_for(str(tmp_path), probe(target, output), "svg")
    inside = os.path.realpath(path)
    assert inside.startswith(str(tmp_path.resolve()) + os.sep)
    assert ".." not in Path(path).parts
    assert path.isprintable()
    artefacts.write_atomically(path, "flames")


@POSIX
@pytest.mark.parametrize("umask", ["0", "0o022", "0o177"])
def test_only_the_owner_reads_what_is_written(umask: str, tmp_path: Path) -> None:
    """Whatever the umask: 0700 the folders, 0600 the files."""
    script = f"""
import os, sys
os.umask({umask})
from types import ModuleType
from autoprof import session
off = {{"reload": "off", "budget": "off", "load": "off"}}
rule = {{"match": "prey:*", "policy": "flame_graph", "rate": 1.0, "output": "below/{{target}}.svg"}}
session.start({{"version": 1, "output": sys.argv[1], **off, "rules": [rule]}})
module = sys.modules["prey"] = ModuleType("prey")
code = compile("def f():\\n    return sum(range(10**6))\\n", "/nowhere/prey.py", "exec")
exec(session.current.installer.rewrite_code(code, "prey"), module.__dict__)
module.f()
session.stop()
"""
    out = tmp_path / "a" / "out"
    out.parent.mkdir()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", script, str(out)], env=environment, check=True, timeout=60)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    found = list(out.rglob("*"))
    assert {each.suffix for each in found} >= {".db", ".svg"}
    for each in found:
        wanted = 0o700 if each.is_dir() else 0o600
        assert stat.S_IMODE(each.stat().st_mode) == wanted, each


def test_no_code_is_loaded_by_name_from_a_policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoprof import config
    from autoprof.errors import PolicyErrors

    (tmp_path / "evil_module.py").write_text("raise SystemExit('loaded')")
    monkeypatch.syspath_prepend(str(tmp_path))
    for value in (
        "evil_module",
        "evil_module:run",
        "!!python/object/apply:evil_module.run []",
        "!!python/module:evil_module",
    ):
        for line in (
            f"strategy: {value}",
            f"policy: {value}",
            f"metadata: {{a: {value}}}",
            f"match: '{value}'",
        ):
            text = f"version: 1\nrules:\n  - match: a:*\n    policy: profile\n    {line}\n"
            for given in (text, text.replace("    policy: profile\n", "", line.startswith("policy"))):
                try:
                    policy = config.loads(given, filename="p.yaml", env={})
                except PolicyErrors:
                    continue
                session.start(policy)
                session.stop()
    assert "evil_module" not in sys.modules
