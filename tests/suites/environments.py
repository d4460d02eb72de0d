"""What a run stands on: an interpreter, a virtual environment, the unpacked tests; all made once and kept."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .catalogue import SUITES, TEST_TOOLS, Suite

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CACHE = REPOSITORY / ".suites"

_WHO = "import sys, test.support; print('%d.%d' % sys.version_info[:2], sys.executable, sep='\\n')"
_OWN_VARIABLES = ("AUTOPROF", "PYTEST", "PYTHON", "VIRTUAL_ENV", "COV_")


class SetupError(Exception):
    """Something that a run needs is not there; the message says what and what to do."""


def environment(**more: str) -> dict[str, str]:
    """Return the environment variables of a run: ours without what steers Python, and `more`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OWN_VARIABLES)}
    # CI: hypothesis tries the same examples each time and sets no deadline
    # ASYNC_TEST_TIMEOUT: tornado's own knob for slow machines; 20 us a call is a lot to a test of 5 s
    steady = {"CI": "true", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "ASYNC_TEST_TIMEOUT": "60"}
    return kept | steady | more


def find_python(version: str) -> Path:
    """Return the interpreter `pythonX.Y`, found on PATH or among pyenv's; a path is taken as it is.

    Raises:
        SetupError: there is none, or it came without its own tests.
    """
    for candidate in _candidates(version):
        try:
            said = _ask(candidate, _WHO)
        except OSError:
            continue
        answer = said.stdout.split("\n")
        if said.returncode == 0 and (os.sep in version or answer[0] == version):
            return Path(answer[1])  # not the candidate, which may be a shim
        if "No module named 'test" in said.stderr:
            raise SetupError(
                f"{candidate} has no 'test' package: install Python's own tests (libpython3-testsuite)"
            )
    raise SetupError(
        f"Python {version} was not found on PATH or in ~/.pyenv/versions: install it or give its path"
    )


def _candidates(version: str) -> Iterator[Path]:
    if os.sep in version:
        yield Path(version)
        return
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield Path(on_path)
    root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(root.glob(f"versions/{version}.*/bin/python"), reverse=True)


def _ask(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-c", code]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)


def full_version(python: Path) -> str:
    """Return the version of an interpreter, as `3.12.1`."""
    return _ask(python, "import platform; print(platform.python_version())").stdout.strip()


def prepare_venv(python: Path, log: Path) -> Path:
    """Make the environment of one interpreter with all suites and their tools; return its `python`.

    It is made again when the list of requirements changes.
    """
    requirements = [*TEST_TOOLS, *(suite.requirement for suite in SUITES if suite.requirement)]
    folder = CACHE / "venvs" / full_version(python)
    inside, stamp = folder / "bin" / "python", folder / "made-from"
    if not _is_stamped(stamp, wanted := "\n".join(requirements)):
        shutil.rmtree(folder, ignore_errors=True)
        _run([str(python), "-m", "venv", str(folder)], log)
        _run([str(inside), "-m", "pip", "install", "--quiet", *requirements], log)
        stamp.write_text(wanted, "utf-8")
    return inside


def install_autoprof(inside: Path, log: Path) -> None:
    """Install this repository into an environment, as a copy: edits during a run must not reach its children."""
    wanted = _digest(REPOSITORY)
    stamp = inside.parent.parent / "autoprof-from"
    if not _is_stamped(stamp, wanted):
        stamp.unlink(missing_ok=True)
        _run([str(inside), "-m", "pip", "install", "--quiet", str(REPOSITORY)], log)
        _run(
            [
                str(inside),
                "-m",
                "pip",
                "install",
                "--quiet",
                "--force-reinstall",
                "--no-deps",
                str(REPOSITORY),
            ],
            log,
        )
        stamp.write_text(wanted, "utf-8")


def _digest(repository: Path) -> str:
    """Return a hash over everything that is installed."""
    digest = hashlib.sha256((repository / "pyproject.toml").read_bytes())
    for path in sorted((repository / "autoprof").rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(str(path.relative_to(repository)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def prepare_source(suite: Suite, inside: Path, log: Path) -> Path | None:
    """Fetch and unpack the sdist that holds a suite's tests; return its folder, None where none is needed."""
    if suite.source is None:
        return None
    folder = CACHE / "sources" / suite.source.replace("==", "-")
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", scratch, suite.source]
        _run([str(inside), "-m", "pip", *fetch], log)
        (archive,) = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as packed:
            packed.extractall(scratch, filter="data")
        (unpacked,) = (path for path in Path(scratch).iterdir() if path.is_dir())
        # importing the package from here instead of from the environment would go unnoticed
        shutil.rmtree(unpacked / "src", ignore_errors=True)
        unpacked.rename(folder)
    return folder


@contextmanager
def the_cache(waiting: Callable[[], None]) -> Iterator[None]:
    """Make the cache folder, which ignores itself in git, and keep every other run out of it.

    Args:
        waiting: called once if another run has it at the moment.
    """
    import fcntl

    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n", "utf-8")
    with (CACHE / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _is_stamped(stamp: Path, wanted: str) -> bool:
    return stamp.exists() and stamp.read_text("utf-8") == wanted


def _run(command: Sequence[str], log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(command)}\n")
        output.flush()
        done = subprocess.run(command, env=environment(), stdout=output, stderr=output, check=False)
    if done.returncode:
        raise SetupError(f"{' '.join(command[1:4])} … ended with status {done.returncode}: see {log}")
