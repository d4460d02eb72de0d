"""A client of the Debug Adapter Protocol: what an editor says to debugpy, and what it is told."""

from __future__ import annotations

import json
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 60
_SHOWN = ("amount", "total", "doubled")


class Client:
    """One connection to a debug adapter. Messages are JSON with a `Content-Length` header."""

    def __init__(self, port: int) -> None:
        deadline = time.monotonic() + TIME_LIMIT_S
        while True:
            try:
                self.connection = socket.create_connection(("127.0.0.1", port), timeout=TIME_LIMIT_S)
                break
            except ConnectionRefusedError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.reader = self.connection.makefile("rb")
        self.sent = 0
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        """Hang up."""
        self.reader.close()
        self.connection.close()

    def send(self, command: str, **arguments: Any) -> int:
        """Send a request; return its number."""
        self.sent += 1
        message = {"seq": self.sent, "type": "request", "command": command, "arguments": arguments}
        body = json.dumps(message).encode()
        self.connection.sendall(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        return self.sent

    def read(self) -> dict[str, Any]:
        """Return the next message."""
        length = 0
        while line := self.reader.readline().strip():
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        if not length:
            raise EOFError("the debug adapter has hung up")
        message: dict[str, Any] = json.loads(self.reader.read(length))
        return message

    def answer(self, number: int) -> dict[str, Any]:
        """Wait for the response to a request; keep events that come before it."""
        while True:
            message = self.read()
            if message["type"] == "response" and message["request_seq"] == number:
                assert message["success"], message
                body: dict[str, Any] = message.get("body") or {}
                return body
            if message["type"] == "event":
                self.events.append(message)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for its response."""
        return self.answer(self.send(command, **arguments))

    def wait_for(self, *names: str) -> dict[str, Any]:
        """Return the next event of one of these names."""
        while True:
            for index, event in enumerate(self.events):
                if event["event"] in names:
                    return self.events.pop(index)
            message = self.read()
            if message["type"] == "event":
                self.events.append(message)


def free_port() -> int:
    """Return a port nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def session(python: str, folder: Path, env: Mapping[str, str]) -> tuple[str, str]:
    """Debug the application: break in `price`, look around, step, step into and out; return the transcript and stdout."""
    port = free_port()
    command = [python, "-Xfrozen_modules=off", "-m", "debugpy", "--listen", f"127.0.0.1:{port}"]
    process = subprocess.Popen(
        [*command, "--wait-for-client", "run_day.py"],
        cwd=folder,
        env=dict(env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        client = Client(port)
        try:
            transcript = _talk(client, folder / "shop" / "work.py")
        finally:
            client.close()
        output, errors = process.communicate(timeout=TIME_LIMIT_S)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, errors
    return json.dumps(transcript), output


def _line(path: Path, text: str) -> int:
    return [line.strip() for line in path.read_text("utf-8").splitlines()].index(text) + 1


def _talk(client: Client, path: Path) -> list[Any]:
    client.ask("initialize", adapterID="test", pathFormat="path", linesStartAt1=True)
    attaching = client.send("attach", justMyCode=True)
    client.wait_for("initialized")
    lines = [_line(path, "total = amount * 2"), _line(path, "yield price(each)")]
    breakpoints = [{"line": each} for each in lines]
    seen: list[Any] = [
        [each["verified"], each["line"]]
        for each in client.ask("setBreakpoints", source={"path": str(path)}, breakpoints=breakpoints)[
            "breakpoints"
        ]
    ]
    client.ask("configurationDone")
    client.answer(attaching)
    for action in ("next", "next", "continue", "stepIn", "next", "stepOut", "continue", "clear"):
        stopped = client.wait_for("stopped", "terminated")
        if stopped["event"] == "terminated":
            break
        thread = stopped["body"]["threadId"]
        seen.append([action, stopped["body"]["reason"], *_around(client, thread)])
        if action == "clear":
            client.ask("setBreakpoints", source={"path": str(path)}, breakpoints=[])
        client.ask(action if action != "clear" else "continue", threadId=thread)
    client.wait_for("terminated")
    return seen


def _around(client: Client, thread: int) -> list[Any]:
    frames = client.ask("stackTrace", threadId=thread)["stackFrames"]
    stack = [[each["name"], each["line"]] for each in frames]
    scopes = client.ask("scopes", frameId=frames[0]["id"])["scopes"]
    found = client.ask("variables", variablesReference=scopes[0]["variablesReference"])["variables"]
    return [stack, {each["name"]: each["value"] for each in found if each["name"] in _SHOWN}]
