"""uvicorn: alone, with workers, with a supervisor that reloads; it ends by its own signal, without atexit."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.servers.harness import APPS, Process, Site, needs

REQUESTS = 40
PATHS = [f"/{number:03}" for number in range(REQUESTS)]
TARGETS = ("plain_asgi:answer", "plain_asgi:price", "plain_asgi:steps")
OPTIONS = ("-m", "uvicorn", "--host", "127.0.0.1", "--port", "0")

Make = Callable[[str], Site]


def wanted(times: int = 1) -> dict[str, int]:
    """Return the calls that so many rounds of requests make."""
    return dict.fromkeys(TARGETS, times * REQUESTS)


def served(server: Process) -> None:
    """Send the requests and see that the answers are right."""
    assert server.send(PATHS) == ["4\n0\n1\n"] * REQUESTS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_one_process(site: Make, number: int) -> None:
    needs("uvicorn")
    measured = site("plain_asgi:*")
    with measured.started(*OPTIONS, "plain_asgi:app") as server:
        server.wait_until_listening()
        served(server)
        measured.wait_for_calls(wanted())
        server.stop(number)
        assert "Application shutdown complete" in server.said()
    measured.check(wanted(), processes=1)


def test_workers(site: Make) -> None:
    needs("uvicorn")
    measured = site("plain_asgi:*")
    with measured.started(*OPTIONS, "--workers", "2", "plain_asgi:app") as server:
        server.wait_until_listening()
        server.wait_until_said("Application startup complete", 2)
        served(server)
        measured.wait_for_calls(wanted())
        server.stop()
    measured.check(wanted())


def test_a_killed_worker_is_replaced(site: Make) -> None:
    needs("uvicorn")
    measured = site("plain_asgi:*")
    with measured.started(*OPTIONS, "--workers", "2", "plain_asgi:app") as server:
        server.wait_until_listening()
        server.wait_until_said("Application startup complete", 2)
        said = server.wait_until_said(r"Started server process \[(\d+)\]", 2)
        served(server)
        measured.wait_for_calls(wanted())
        server.kill(int(said[0]))
        server.wait_until_said("Application startup complete", 3)
        served(server)
        measured.wait_for_calls(wanted(2))
        server.stop()
    measured.check(wanted(2))


def test_reload(site: Make) -> None:
    """The supervisor ends the server with SIGTERM and starts another by spawn; both are counted."""
    needs("uvicorn")
    measured = site("plain_asgi:*")
    application = measured.folder / "plain_asgi.py"
    application.write_text((APPS / "plain_asgi.py").read_text())
    path = {"PYTHONPATH": str(measured.folder)}
    options = ("--reload", "--reload-dir", str(measured.folder), "plain_asgi:app")
    with measured.started(*OPTIONS, *options, **path) as server:
        server.wait_until_listening()
        server.wait_until_said("Application startup complete")
        served(server)
        measured.wait_for_calls(wanted())
        application.write_text(application.read_text() + "\n# edited\n")
        server.wait_until_said("Application startup complete", 2)
        served(server)
        measured.wait_for_calls(wanted(2))
        server.stop()
    measured.check(wanted(2), processes=2)
