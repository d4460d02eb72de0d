"""Never break the host: what fails inside is counted, told once, and swallowed."""

from __future__ import annotations

import logging
from _thread import get_ident
from collections.abc import Iterator

import pytest

from autoprof import guard


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    before = dict(guard.internal_errors), set(guard._logged), list(guard.listeners)
    yield
    for live, kept in zip((guard.internal_errors, guard._logged, guard.listeners), before, strict=True):
        live.clear()
        (live.extend if isinstance(live, list) else live.update)(kept)


def test_a_failure_is_counted_each_time_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        guard.report("somewhere", ValueError("broken"))
    assert guard.internal_errors["somewhere"] == 3
    assert [(each.levelname, each.name) for each in caplog.records] == [("WARNING", "autoprof")]
    assert "internal error in somewhere: ValueError: broken" in caplog.text


def test_listeners_hear_of_each_failure_and_may_fail(caplog: pytest.LogCaptureFixture) -> None:
    heard = []

    def broken(where: str, error: BaseException) -> None:
        heard.append((where, str(error)))
        raise RuntimeError("listener")

    guard.listeners.append(broken)
    guard.report("somewhere", ValueError("a"))
    guard.report("somewhere", ValueError("b"))
    assert heard == [("somewhere", "a"), ("somewhere", "b")]
    assert guard.internal_errors["guard"] == 2


def test_what_cannot_even_be_logged_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(message: str) -> None:
        raise RecursionError(message)

    monkeypatch.setenv("AUTOPROF_STRICT", "1")
    monkeypatch.setattr(guard, "warn", exhausted)
    heard: list[object] = []
    guard.listeners.append(lambda *failure: heard.append(failure))
    for tell in (guard.count, guard.note):
        tell("somewhere", error := ValueError("a"))
    assert guard.internal_errors == {"somewhere": 2, "guard": 1}
    assert heard == [("somewhere", error)]


def test_strict_raises_in_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPROF_STRICT", "1")
    with pytest.raises(ValueError, match="broken"):
        guard.report("somewhere", ValueError("broken"))


@pytest.mark.parametrize("text", ["", "0", "no", "off", "false"])
def test_not_strict(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPROF_STRICT", text)
    assert not guard.strict()


@pytest.mark.parametrize("text", ["1", "true", "YES", " on "])
def test_strict(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOPROF_STRICT", text)
    assert guard.strict()


def test_logging_runs_unmeasured_and_may_be_broken() -> None:
    seen = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(get_ident() in guard.suppressed)
            raise MemoryError

    handler = Handler()
    logging.getLogger("autoprof").addHandler(handler)
    try:
        guard.warn("a message with 100 % and %s")
    finally:
        logging.getLogger("autoprof").removeHandler(handler)
    assert seen == [True]
    assert guard.internal_errors["log"] == 1
    assert get_ident() not in guard.suppressed


def test_messages_are_logged_as_they_are(caplog: pytest.LogCaptureFixture) -> None:
    guard.warn("50 %s and %d")
    assert caplog.messages == ["50 %s and %d"]


def test_suppression_by_the_caller_stays() -> None:
    ident = get_ident()
    guard.suppressed.add(ident)
    try:
        guard.warn("message")
        assert ident in guard.suppressed
    finally:
        guard.suppressed.discard(ident)


def test_info_needs_the_applications_logging(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "autoprof")
    guard.inform("a line")
    assert caplog.messages == ["a line"]
