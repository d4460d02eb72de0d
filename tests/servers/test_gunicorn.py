"""gunicorn: sync, gthread, gevent; with and without --preload; ended in every way."""

from __future__ import annotations

import os
import re
import signal

import pytest

from tests.servers.harness import Process, Site, needs, wait_for

REQUESTS = 40
PAGES = [f"/product/P{number:04}" for number in range(REQUESTS)]
WANTED = {"shop.app:product": REQUESTS, "shop.orders:OrderBook.basket": 4 * REQUESTS}
OPTIONS = ("-m", "gunicorn", "-c", "python:gunicorn_conf", "--bind", "127.0.0.1:0", "--workers", "2")
MODES = {
    "sync": ("-k", "sync"),
    "gthread": ("-k", "gthread", "--threads", "4"),
    "gevent": ("-k", "gevent"),
}


def prepared(mode: str) -> tuple[str, ...]:
    """Return gunicorn's options for a kind of worker; skip where that is not installed."""
    needs("gunicorn")
    if mode == "gevent":
        needs(mode)
    return MODES[mode]


def settle(server: Process) -> None:
    """Wait until all workers take signals: one that is still booting loses them, with or without autoprof."""

    def settled() -> bool:
        said = server.said()
        return said.count("Booting worker") == said.count("takes signals") >= 2

    wait_for(settled, "all workers")


def served(server: Process) -> None:
    """Send the requests and see that the answers are the shop's."""
    server.wait_until_listening()
    settle(server)
    answers = server.send(PAGES)
    assert all("</html>" in each for each in answers)


def stopped(server: Process, number: int = signal.SIGTERM) -> None:
    """End the server in order."""
    settle(server)
    assert server.stop(number) == 0


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("mode", MODES)
def test_every_request_is_counted_once(shop: Site, mode: str, preload: tuple[str, ...]) -> None:
    options = prepared(mode)
    with shop.started(*OPTIONS, *options, *preload, "shop_wsgi:app") as server:
        served(server)
        stopped(server, signal.SIGTERM)
        assert "autoprof" not in server.said()
    opened = {"shop_wsgi:opened": 1 if preload else 2}
    rows = shop.check(WANTED | opened)
    assert rows["shop.app:product"]["profiled"] == REQUESTS  # also where they overlap in one thread
    assert not re.search(r"Traceback|Error", server.said()), server.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGQUIT], ids=["SIGINT", "SIGQUIT"])
def test_ended_at_once(shop: Site, number: int) -> None:
    """The signals after which gunicorn does not wait for its workers' requests."""
    with shop.started(*OPTIONS, *prepared("gthread"), "shop_wsgi:app") as server:
        served(server)
        shop.wait_for_calls(WANTED)
        stopped(server, number)
    shop.check(WANTED)


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["plain", "preload"])
def test_workers_that_are_replaced(shop: Site, preload: tuple[str, ...]) -> None:
    """Each worker ends after a few requests, with all of them in the store."""
    more = ("--max-requests", "6", "--graceful-timeout", "50")
    with shop.started(*OPTIONS, *prepared("sync"), *more, *preload, "shop_wsgi:app") as server:
        server.wait_until_listening()
        for page in PAGES:
            server.get(page)
        shop.wait_for_calls(WANTED)
        stopped(server)
    rows = shop.check(WANTED)
    assert rows["shop.app:product"]["processes"] >= 4


def test_reloaded_by_sighup(shop: Site) -> None:
    with shop.started(*OPTIONS, *prepared("sync"), "shop_wsgi:app") as server:
        served(server)
        before = server.workers()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(set(server.workers()) - set(before)) == 2, "two new workers")
        wait_for(lambda: not set(server.workers()) & set(before), "the end of the old workers")
        served(server)
        stopped(server)
    shop.check({target: 2 * count for target, count in WANTED.items()})


def test_a_killed_worker_is_replaced_and_nothing_is_counted_twice(shop: Site) -> None:
    with shop.started(*OPTIONS, *prepared("sync"), "shop_wsgi:app") as server:
        served(server)
        shop.wait_for_calls(WANTED)
        before = server.workers()
        for each in before:
            os.kill(each, signal.SIGKILL)
        wait_for(lambda: len(set(server.workers()) - set(before)) == 2, "two new workers")
        served(server)
        stopped(server)
    shop.check({target: 2 * count for target, count in WANTED.items()})


def test_all_killed(shop: Site) -> None:
    """What is in the store stays; of what was not yet there, nothing is made up."""
    with shop.started(*OPTIONS, *prepared("gthread"), "shop_wsgi:app") as server:
        served(server)
        shop.wait_for_calls(WANTED)
        served(server)
        server.end()
    found = shop.calls()["shop.app:product"]
    assert REQUESTS <= found <= 2 * REQUESTS
