"""What `status` says of rules that have matched nothing."""

from __future__ import annotations

import logging

import pytest

from autoprof import config, session
from autoprof.standing import UNMATCHED_AFTER_NS, Standing

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
        told = standing.news()
        assert told is not None and standing.news() is None
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
