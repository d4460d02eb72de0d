"""The bus: receivers kept apart from each other and from the application, blinker only where it is needed."""

from __future__ import annotations

import _thread
import gc
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from autoprof import events, guard, signals, testing
from tests import mechanisms

TARGET = "shop:total"


@pytest.fixture(autouse=True)
def fresh_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "autoprof")
    before = set(signals._slow_logged), dict(guard.internal_errors)
    signals._slow_logged.clear()
    yield
    signals._slow_logged.clear()
    signals._slow_logged.update(before[0])
    guard.internal_errors.clear()
    guard.internal_errors.update(before[1])


def send(name: str = "stop", sender: str = TARGET) -> None:
    signals.send(name, sender, {"duration_ns": 5}, events.metadata(name, sender))


def test_the_signals_are_blinkers_own() -> None:
    import blinker

    for name in events.NAMES:
        assert getattr(signals, name) is blinker.signal(f"autoprof.{name}")
    assert sorted(signals.__all__) == signals.__all__


def test_metadata_has_every_key_of_the_contract() -> None:
    found = events.metadata("stop", "shop.db:Repo.find", "rule 1", "profile", "sample")
    keys = {"event", "module", "function", "target", "rule", "policy", "strategy"}
    assert set(found) == keys | {"pid", "thread", "env", "service"}
    assert (found["module"], found["function"]) == ("shop.db", "Repo.find")


def test_a_receiver_gets_sender_measurements_and_metadata() -> None:
    seen: list[Any] = []

    def receiver(sender: str, *, measurements: dict[str, Any], metadata: dict[str, Any]) -> None:
        seen.append((sender, measurements, metadata["event"]))

    with signals.stop.connected_to(receiver):
        send()
    assert seen == [(TARGET, {"duration_ns": 5}, "stop")]


def test_sender_selects_one_function() -> None:
    with testing.capture("stop", sender=TARGET) as one, testing.capture("stop") as both:
        send()
        send(sender="shop:other")
    assert [each.target for each in one] == [TARGET]
    assert [each.target for each in both] == [TARGET, "shop:other"]


def test_connect_names_several_signals_and_refuses_unknown_ones() -> None:
    seen = []

    def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
        seen.append(metadata["event"])

    signals.connect(receiver, "stop", "exception")
    for name in ("start", "stop", "exception"):
        send(name)
    signals.disconnect(receiver, "stop", "exception")
    send()
    assert seen == ["stop", "exception"]
    with pytest.raises(ValueError, match="'stopp'"):
        signals.connect(receiver, "stop", "stopp")
    assert not signals.stop.receivers


def test_receivers_are_weak_unless_asked_otherwise() -> None:
    def connect(weak: bool, seen: list[int]) -> None:
        def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
            seen.append(1)

        signals.connect(receiver, "stop", weak=weak)

    lost: list[int] = []
    connect(True, lost)
    gc.collect()
    send()
    assert lost == []
    kept: list[int] = []
    connect(False, kept)
    gc.collect()
    send()
    assert kept == [1]
    signals.stop._clear_state()


def test_a_failing_receiver_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    seen = []

    def before(sender: str, *, measurements: Any, metadata: Any) -> None:
        seen.append("before")

    def broken(sender: str, *, measurements: Any, metadata: Any) -> None:
        raise SystemExit("receiver")

    def after(sender: str, *, measurements: Any, metadata: Any) -> None:
        seen.append("after")

    with (
        signals.stop.connected_to(before),
        signals.stop.connected_to(broken),
        signals.stop.connected_to(after),
    ):
        for _ in range(3):
            send()
    assert sorted(seen) == ["after"] * 3 + ["before"] * 3
    assert guard.internal_errors["receiver of stop"] == 3
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "SystemExit: receiver" in caplog.text


def test_keyboard_interrupt_passes() -> None:
    def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
        raise KeyboardInterrupt

    with signals.stop.connected_to(receiver), pytest.raises(KeyboardInterrupt):
        send()
    assert _thread.get_ident() not in guard.suppressed


def test_a_slow_receiver_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    with testing.FakeClock() as clock:

        def slow(sender: str, *, measurements: Any, metadata: Any) -> None:
            clock.advance(ms=51)

        def quick(sender: str, *, measurements: Any, metadata: Any) -> None:
            clock.advance(ms=49)

        with signals.start.connected_to(quick):
            send("start")
        assert not caplog.records
        with signals.stop.connected_to(slow):
            send()
            send()
    assert [record.message for record in caplog.records] == [
        "a receiver of autoprof.stop took 51 ms; it runs inside the measured call"
    ]


def test_receivers_run_unmeasured() -> None:
    from _thread import get_ident

    inside = []

    def receiver(sender: str, *, measurements: Any, metadata: Any) -> None:
        inside.append(get_ident() in guard.suppressed)
        if len(inside) < 3:
            send()
            inside.append(get_ident() in guard.suppressed)

    with signals.stop.connected_to(receiver):
        send()
    assert all(inside) and get_ident() not in guard.suppressed


def test_listening() -> None:
    assert not signals.listening("stop")
    with testing.capture("stop"):
        assert signals.listening("stop")


def test_blinker_is_not_loaded_without_a_probe() -> None:
    program = (
        "import sys, autoprof\n"
        "autoprof.start({'version': 1, 'rules': [{'match': 'nothing:*', 'policy': 'profile'}]})\n"
        "autoprof.status(); autoprof.stop()\n"
        "print('blinker' in sys.modules, 'pyinstrument' in sys.modules, 'psutil' in sys.modules)\n"
    )
    done = mechanisms.python(program)
    assert done.stdout == "False False False\n", done.stderr


def test_capture_collects_in_order_and_lets_go() -> None:
    with testing.capture() as caught:
        send("start")
        send("stop")
    send("stop")
    assert caught.names == ["start", "stop"]
    assert caught.named("stop")[0].measurements == {"duration_ns": 5}
    assert caught.named("stop", "shop:other") == []
    assert not any(signals.listening(name) for name in events.NAMES)
