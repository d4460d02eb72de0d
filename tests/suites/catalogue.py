"""Which suites there are: where each comes from, how it is run, what of it is profiled."""

from __future__ import annotations

from dataclasses import dataclass

PYTHONS = ("3.11", "3.12", "3.13")

TEST_TOOLS = (
    "pytest==9.2.0",
    "hypothesis==6.170.15",
    "cloudpickle==3.1.2",
    "pympler==1.1",
    "trio==0.35.0",
    "cryptography==50.0.2",
    "cffi==2.1.1",
    "watchdog==6.0.0",
    "ephemeral-port-reserve==1.1.4",
    "pytest-timeout==2.4.0",
    "twisted==26.10.0",
)
"""What the suites ask for in their own lists of test dependencies, pinned."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One test suite.

    `packages` are what is profiled, all of each. `arguments` go to the runner, `pytest` or `unittest`.
    `source` is the pinned distribution whose sdist holds the tests, None where they are installed.
    """

    name: str
    packages: tuple[str, ...]
    runner: str = "unittest"
    arguments: tuple[str, ...] = ()
    requirement: str | None = None
    source: str | None = None
    timeout_s: int = 900

    @property
    def globs(self) -> tuple[str, ...]:
        """The policy's globs: each package's own functions and those of its modules."""
        return tuple(glob for package in self.packages for glob in (f"{package}:*", f"{package}.*:*"))


def _from_sdist(name: str, version: str, *packages: str, arguments: tuple[str, ...] = ()) -> Suite:
    pinned = f"{name}=={version}"
    return Suite(name, packages or (name,), "pytest", ("tests", *arguments), pinned, pinned)


def _of_cpython(name: str, timeout_s: int = 900) -> Suite:
    return Suite(name, (name,), arguments=(f"test.test_{name}",), timeout_s=timeout_s)


SUITES = (
    _from_sdist("click", "8.5.1"),
    _from_sdist("jinja2", "3.1.6"),
    _from_sdist("attrs", "26.1.0", "attr", "attrs"),
    _from_sdist("werkzeug", "3.1.9"),
    Suite(
        "tornado",
        ("tornado",),
        arguments=("--through", "tornado.test.runtests"),
        requirement="tornado==6.6.1",
    ),
    _of_cpython("json"),
    _of_cpython("email"),
    _of_cpython("argparse"),
    _of_cpython("configparser"),
    _of_cpython("asyncio", timeout_s=1800),
    _of_cpython("unittest"),
    _of_cpython("zipfile"),
    _of_cpython("tempfile"),
)


def named(names: list[str]) -> list[Suite]:
    """Return the suites of these names, all without names.

    Raises:
        LookupError: a name that is none of them.
    """
    known = {suite.name: suite for suite in SUITES}
    for name in names:
        if name not in known:
            raise LookupError(f"no suite is called {name!r}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(SUITES)
