"""What every test gets: a clean environment, and the assertion that it leaves nothing behind."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

import pytest

from autoprof import calls, costs, flusher, guard

calls.measure_under_coverage = True

# A background job inherits the one ignored, `nohup` the other; and so would every process that a test starts.
if hasattr(signal, "SIGINT") and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

REPOSITORY = Path(__file__).resolve().parent.parent
STARTUP = REPOSITORY / "autoprof" / "startup"

for _name in [name for name in os.environ if name.startswith("AUTOPROF_")]:
    del os.environ[_name]


def _receivers() -> dict[str, int]:
    blinker: ModuleType | None = sys.modules.get("blinker")
    if blinker is None:
        return {}
    signals = blinker.base.default_namespace if hasattr(blinker, "base") else {}
    return {
        name: len(signal.receivers)
        for name, signal in list(signals.items())
        if name.startswith("autoprof.") and signal.receivers
    }


def _left() -> dict[str, object]:
    runpy = sys.modules.get("runpy")
    session = sys.modules.get("autoprof.session")
    return {
        "sys.meta_path": list(sys.meta_path),
        "sys.path_hooks": list(sys.path_hooks),
        "sys.path": list(sys.path),
        "module_from_spec": importlib.util.module_from_spec,
        "runpy.exec": "exec" in vars(runpy) if runpy else False,
        "profile functions": (sys.getprofile(), threading.getprofile()),
        "environment": {k: v for k, v in os.environ.items() if k.startswith("AUTOPROF_")},
        "receivers": _receivers(),
        "session": getattr(session, "current", None),
    }


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.is_alive()}


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Start with no internal error counted; fail a test that leaves hooks, receivers, threads or variables of ours."""
    guard.internal_errors.clear()  # the faults that other tests injected
    before, threads = _left(), _threads()
    yield
    after = _left()
    changed = {key: (before[key], value) for key, value in after.items() if value != before[key]}
    assert not changed, f"left behind: {changed}"
    deadline = time.monotonic() + 3
    while _threads() - threads and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _threads() - threads, f"threads left behind: {_threads() - threads}"


@pytest.fixture
def no_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the background thread write nothing by itself: it takes what a test is about to look at."""
    monkeypatch.setattr(flusher, "SOONEST_FLUSH_NS", 1 << 62)


@pytest.fixture
def known_prices() -> Iterator[None]:
    """Go by the usual prices: other tests' sessions have measured this machine."""
    costs.prices.forget()
    yield
    costs.prices.forget()


class Environment:
    """A fresh virtual environment in which autoprof is installed as pip does it, made without pip.

    Attributes:
        python: its interpreter.
        site: its site-packages folder.
    """

    def __init__(self, folder: Path, *, startup: bool = True) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.folder = folder
        self.python = str(folder / "bin" / "python")
        version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
        self.site = folder / "lib" / version / "site-packages"
        packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (self.site / "dependencies.pth").write_text("\n".join([str(REPOSITORY), *packages]) + "\n")
        if startup:
            for name in ("zzz_autoprof.pth", "zzz_autoprof.start", "autoprof_boot.py"):
                (self.site / name).write_bytes((STARTUP / name).read_bytes())

    def run(
        self,
        *arguments: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,
        executable: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run its interpreter, or another command of the environment, in a clean environment."""
        base = {
            k: v
            for k, v in os.environ.items()
            if not k.startswith(("AUTOPROF_", "PYTHON", "COV_", "COVERAGE_"))
        }
        base["PATH"] = f"{self.folder / 'bin'}{os.pathsep}{base.get('PATH', '')}"
        command = [executable or self.python, *map(str, arguments)]
        return subprocess.run(
            command,
            env={**base, **(env or {})},
            cwd=cwd,
            input=input,
            stdin=None if input is not None else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with autoprof and its start-up files."""
    return Environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture(scope="session")
def bare_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The same environment without the start-up files."""
    return Environment(tmp_path_factory.mktemp("bare") / "venv", startup=False)


@pytest.fixture(scope="session")
def hooked_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment in which `tests/fake_rewriter.py` hooks the modules that FAKE_COVERS names."""
    made = Environment(tmp_path_factory.mktemp("hooked") / "venv", startup=False)
    (made.site / "fake_rewriter.py").write_bytes((REPOSITORY / "tests" / "fake_rewriter.py").read_bytes())
    start = 'import os; os.environ.get("FAKE_COVERS") and __import__("fake_rewriter").start()\n'
    (made.site / "zzz_fake.pth").write_text(start)
    return made


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Mapping[str, str]], Path]:
    """Return a function that writes a tree of files and returns its folder."""

    def write_files(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write_files
