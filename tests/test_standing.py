"""What `status` says of rules that have matched nothing."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest

from autoprof import config, session
from autoprof.standing import UNMATCHED_AFTER_NS, Standing
from autoprof.store import StoreReader
from tests import mechanisms

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


def test_only_what_has_changed_is_told_again(tmp_path: Path, no_flushes: None) -> None:
    name = "subject_standing"
    loaded = mechanisms.Loaded(
        mechanisms.spliced_at_import(SOURCE, name, mechanisms.policy(name, str(tmp_path / "out")))
    )
    try:
        assert session.current is not None
        flusher, news = session.current.flusher, session.current.flusher.states
        loaded.f(1)
        states, whole = news(False) or ([], False)
        assert whole and {(each.target, each.reason) for each in states} == {
            (f"{name}:f", ""),
            (f"{name}:g", "waiting for its first call"),
            (f"{name}:h", "waiting for its first call"),
        }
        assert news(False) is None
        loaded.g(1)
        states, whole = news(False) or ([], True)
        assert not whole and [(each.target, each.reason) for each in states] == [(f"{name}:g", "")]
        states, whole = news(True) or ([], False)
        assert whole and len(states) == 3, "for another file"
        exec(session.current.installer.rewrite_code(compile("def later(): pass", "/x", "exec"), name), {})
        states, whole = news(False) or ([], True)
        assert not whole and [each.target for each in states] == [f"{name}:later"]

        flusher.flush()
        loaded.h(1)
        flusher.flush()
        assert stored(tmp_path) == {"f": "", "g": "", "h": "", "later": "waiting for its first call"}
        session.current.governor.reason = "paused by load: a test"
        session.current.installer.made[f"{name}:f", "profile"].paused = "paused by load: a test"
        loaded.g(1)
        flusher.flush()
        assert stored(tmp_path)["later"] == stored(tmp_path)["f"] == "paused by load: a test"
    finally:
        session.stop()
        sys.modules.pop(name, None)


def stored(tmp_path: Path) -> dict[str, str]:
    data = StoreReader([str(tmp_path / "out")]).select()
    return {each.target.partition(":")[2]: each.reason for each in data.states}


def test_states_that_could_not_be_written_are_written_later(tmp_path: Path, no_flushes: None) -> None:
    name = "subject_standing"
    loaded = mechanisms.Loaded(
        mechanisms.spliced_at_import(SOURCE, name, mechanisms.policy(name, str(tmp_path / "out")))
    )
    try:
        assert session.current is not None
        flusher = session.current.flusher
        (tmp_path / "out").write_text("in the way")
        loaded.f(1)
        flusher.flush()
        assert flusher.last_error
        (tmp_path / "out").unlink()
        flusher._retry_ns = 0
        loaded.f(1)
        flusher.flush()
        assert not flusher.last_error and set(stored(tmp_path)) == {"f", "g", "h"}
        for each in (tmp_path / "out").iterdir():
            each.unlink()
        for _ in range(2):  # the first write finds that the file is another
            loaded.f(1)
            flusher.flush()
        assert set(stored(tmp_path)) == {"f", "g", "h"}
    finally:
        session.stop()
        sys.modules.pop(name, None)
