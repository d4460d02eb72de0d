"""What `status` says of rules that have matched nothing."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from autoprof import config, session
from autoprof.standing import UNMATCHED_AFTER_NS, Standing
from autoprof.store import StoreReader
from tests import mechanisms

if TYPE_CHECKING:
    from autoprof.wiring import Session

POLICY = """\
version: 1
env: prod
reload: off
rules:
  - {match: 'nowhere:here', policy: profile}
  - {match: 'nowhere:dev', policy: profile_memory}
  - {match: 'nowhere:off', policy: profile, enabled: false}
  - {match: 'nowhere:never', policy: none}
"""


def test_only_a_rule_that_could_match_is_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    policy = config.loads(POLICY, filename="policy.yaml", env={})
    session.start(policy)
    try:
        assert session.current is not None
        standing = Standing(policy, session.current.installer, session.current.started_ns)
        news = standing.news()
        assert news is not None and news[1] and standing.news() is None
        told = news[0]
        with caplog.at_level(logging.WARNING, "autoprof"):
            standing.started_ns -= UNMATCHED_AFTER_NS
            standing.news()
            standing.news()
    finally:
        session.stop()
    found = {each.target: (each.state, each.reason) for each in told}
    assert set(found) == {"nowhere:here", "nowhere:dev", "nowhere:off"}
    assert found["nowhere:here"] == ("waiting", "matched no function yet")
    assert found["nowhere:dev"][0] == "disabled" and "prod" in found["nowhere:dev"][1]
    assert found["nowhere:off"][0] == "disabled" and "enabled" in found["nowhere:off"][1]
    assert caplog.messages == ["rule 1 has matched no function in the first minute: nowhere:here"]


SOURCE = "def f(x): return x\ndef g(x): return x\ndef h(x): return x\n"


@pytest.fixture
def subject(tmp_path: Path, no_flushes: None) -> Iterator[mechanisms.Loaded]:
    name = "subject_standing"
    policy = mechanisms.policy(name, str(tmp_path / "out"))
    yield mechanisms.Loaded(mechanisms.spliced_at_import(SOURCE, name, policy))
    session.stop()
    sys.modules.pop(name, None)


def in_force() -> Session:
    assert session.current is not None
    return session.current


def test_only_what_has_changed_is_told_again(subject: mechanisms.Loaded, tmp_path: Path) -> None:
    name, flusher, news = subject.name, in_force().flusher, in_force().flusher.states
    subject.f(1)
    states, whole = news(False) or ([], False)
    assert whole and {(each.target, each.reason) for each in states} == {
        (f"{name}:f", ""),
        (f"{name}:g", "waiting for its first call"),
        (f"{name}:h", "waiting for its first call"),
    }
    assert news(False) is None
    subject.g(1)
    states, whole = news(False) or ([], True)
    assert not whole and [(each.target, each.reason) for each in states] == [(f"{name}:g", "")]
    states, whole = news(True) or ([], False)
    assert whole and len(states) == 3, "for another file"
    exec(in_force().installer.rewrite_code(compile("def later(): pass", "/x", "exec"), name), {})
    states, whole = news(False) or ([], True)
    assert not whole and [each.target for each in states] == [f"{name}:later"]

    flusher.flush()
    subject.h(1)
    flusher.flush()
    assert stored(tmp_path) == {"f": "", "g": "", "h": "", "later": "waiting for its first call"}
    in_force().governor.reason = "paused by load: a test"
    in_force().installer.made[f"{name}:f", "profile"].paused = "paused by load: a test"
    subject.g(1)
    flusher.flush()
    assert stored(tmp_path)["later"] == stored(tmp_path)["f"] == "paused by load: a test"


def stored(tmp_path: Path) -> dict[str, str]:
    data = StoreReader([str(tmp_path / "out")]).select()
    return {each.target.partition(":")[2]: each.reason for each in data.states}


def test_states_that_could_not_be_written_are_written_later(
    subject: mechanisms.Loaded, tmp_path: Path
) -> None:
    flusher = in_force().flusher
    (tmp_path / "out").write_text("in the way")
    subject.f(1)
    flusher.flush()
    assert flusher.last_error
    (tmp_path / "out").unlink()
    flusher._retry_ns = 0
    subject.f(1)
    flusher.flush()
    assert not flusher.last_error and set(stored(tmp_path)) == {"f", "g", "h"}
    for each in (tmp_path / "out").iterdir():
        each.unlink()
    for _ in range(2):  # the first write finds that the file is another
        subject.f(1)
        flusher.flush()
    assert set(stored(tmp_path)) == {"f", "g", "h"}
