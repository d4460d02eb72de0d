"""What runs inside Pyodide: pytest on the tests of rewriting, and one closing line."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

OPTIONS = ["-q", "-p", "no:cacheprovider", "-p", "no:faulthandler", "--no-header", "--rootdir=/repository"]


class Tally:
    """Counts outcomes as pytest's own closing line does."""

    def __init__(self) -> None:
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Count a test once: by its call, or by the setup or teardown that kept it from passing."""
        if report.when == "call" or (report.outcome != "passed" and report.when in ("setup", "teardown")):
            self.counts[report.outcome] += 1


def main(arguments: list[str]) -> int:
    """Run the tests; return pytest's exit status."""
    import pytest

    print(f"CPython {sys.version.split()[0]} on {sys.platform}")
    tally = Tally()
    status = int(pytest.main([*OPTIONS, *arguments], plugins=[tally]))
    print(", ".join(f"{count} {outcome}" for outcome, count in tally.counts.items()))
    return status
