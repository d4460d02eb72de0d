"""Every way in which a function gets its gate, behind one face: rewriting is tested through all of them."""

from __future__ import annotations

import linecache
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from autoprof import session
from autoprof.probe import Probe

DECORATOR = "@__import__('autoprof').profile(rate=1.0)"
_numbers = iter(range(1, 1_000_000))


class Loaded:
    """A module under one mechanism; `probe(qualname)` gives its probes."""

    def __init__(self, module: ModuleType) -> None:
        self.module = module
        self.name = module.__name__

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def probe(self, qualname: str) -> Probe:
        """Return the probe on a function of the module."""
        assert session.current is not None
        return session.current.installer.probes[f"{self.name}:{qualname}", "profile"]


Mechanism = Callable[[str, str, dict[str, Any]], ModuleType]


def policy(module: str, output: str, rewrite: str = "splice", **options: Any) -> dict[str, Any]:
    """Return a policy that measures every call of every function of a module, but for `run` and `drive`."""
    rule = {"match": f"{module}:*", "except": [f"{module}:run*", f"{module}:drive*"], "policy": "profile"}
    rule |= {"rate": 1.0, **options}
    off = {"reload": "off", "budget": "off", "load": "off"}
    return {"version": 1, "output": output, "rewrite": rewrite, **off, "rules": [rule]}


def _execute(module: ModuleType, code: Any) -> ModuleType:
    sys.modules[module.__name__] = module
    exec(code, module.__dict__)
    return module


def _fresh(source: str, name: str) -> tuple[ModuleType, str]:
    module = ModuleType(name)
    path = f"/nowhere/{name}.py"
    module.__file__ = path
    linecache.cache[path] = (len(source), None, source.splitlines(True), path)
    return module, path


def plain(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """Without autoprof: what the others are compared with."""
    module, path = _fresh(source, name)
    return _execute(module, compile(source, path, "exec", dont_inherit=True))


def spliced_at_import(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """The module's code is rewritten before it is executed."""
    session.start(start)
    assert session.current is not None
    module, path = _fresh(source, name)
    code = compile(source, path, "exec", dont_inherit=True)
    return _execute(module, session.current.installer.rewrite_code(code, name))


def spliced_live(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """The functions exist already when the policy comes into force."""
    module = plain(source, name, start)
    session.start(start)
    return module


def decorated_at_import(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """The portable back end."""
    session.start({**start, "rewrite": "decorate"})
    assert session.current is not None
    module, path = _fresh(source, name)
    code = session.current.installer.rewrite_source(source, path, name)
    return _execute(module, code or compile(source, path, "exec", dont_inherit=True))


def _in_code(source: str, name: str, start: dict[str, Any], rewrite: str) -> ModuleType:
    rules = [{"match": "nothing.at.all:*", "policy": "profile"}]
    session.start({**start, "rewrite": rewrite, "rules": rules})
    return plain(source.replace("#@", DECORATOR), name, start)


def decorator_in_code(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """`@profile` in the source, spliced."""
    return _in_code(source, name, start, "splice")


def decorator_in_code_portable(source: str, name: str, start: dict[str, Any]) -> ModuleType:
    """`@profile` in the source, wrapped."""
    return _in_code(source, name, start, "decorate")


MECHANISMS: dict[str, Mechanism] = {
    each.__name__: each
    for each in (
        spliced_at_import,
        spliced_live,
        decorated_at_import,
        decorator_in_code,
        decorator_in_code_portable,
    )
}
SPLICED = ("spliced_at_import", "spliced_live", "decorator_in_code")


def python(program: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, in which autoprof can be imported, installed or not."""
    paths = [str(Path(__file__).resolve().parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(each for each in paths if each)}
    return subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )


def loads(tmp_path: Any) -> Iterator[Callable[..., Loaded]]:
    """Be the body of a fixture: gives `load(mechanism, source, **options)`, stops everything afterwards."""
    names: list[str] = []

    def load(mechanism: str, source: str, **options: Any) -> Loaded:
        name = f"subject_{next(_numbers)}"
        names.append(name)
        way = plain if mechanism == "plain" else MECHANISMS[mechanism]
        return Loaded(way(source, name, policy(name, str(tmp_path / "out"), **options)))

    yield load
    session.stop()
    for name in names:
        sys.modules.pop(name, None)
        linecache.cache.pop(f"/nowhere/{name}.py", None)
