"""The options of the six policies: their defaults, what they read, and how wrong ones are explained."""

from __future__ import annotations

import pytest

from autoprof import schema
from autoprof.errors import OptionError
from autoprof.policy import options_for

CONTRACT: dict[str, dict[str, object]] = {
    "profile": {
        "strategy": "sample",
        "rate": 0.01,
        "duration_ns": 30 * 10**9,
        "threshold_ns": None,
        "env": None,
        "enabled": True,
        "asynchronous": False,
        "emit_metrics": True,
        "check_load": True,
        "metadata": {},
        "output": None,
        "format": None,
        "interval_ns": 10**7,
        "every_ns": None,
    },
    "profile_if_slow": {"strategy": "sample", "rate": 0.1, "env": ("dev", "test"), "check_load": True},
    "profile_production": {
        "rate": 0.001,
        "emit_metrics": True,
        "check_load": True,
        "env": None,
        "strategy": "sample",
    },
    "flame_graph": {
        "output": None,
        "format": "svg",
        "enabled": True,
        "duration_ns": 10**10,
        "rate": 1.0,
        "every_ns": 10**9,
        "env": None,
        "interval_ns": 10**6,
        "strategy": "flame_graph",
    },
    "profile_memory": {"env": ("dev", "test"), "threshold_bytes": None, "emit_metrics": True, "rate": 1.0},
    "profile_calls": {"env": ("dev", "test"), "emit_metrics": True, "callees": True, "rate": 1.0},
}


@pytest.mark.parametrize("kind", CONTRACT)
def test_the_defaults_of_every_policy(kind: str) -> None:
    given = {"threshold": 500} if kind == "profile_if_slow" else {}
    options = options_for(kind, **given)
    assert options | CONTRACT[kind] == options
    assert set(options) == set(schema.ABSENT)


def test_metadata_is_not_shared_between_functions() -> None:
    first = options_for("profile")
    first["metadata"]["x"] = 1  # type: ignore[index]
    assert options_for("profile")["metadata"] == {}


def test_every_option_reads_python_and_yaml_values() -> None:
    options = options_for(
        "profile",
        strategy="call_graph",
        rate="0.5%",
        duration="2s",
        threshold=1000,
        env="prod",
        enabled="yes",
        async_=True,
        emit_metrics=False,
        check_load="off",
        metadata={"team": "x", "n": 1},
        every="1m",
        interval="1ms",
        output="{target}-{time}-{pid}.txt",
        format="text",
    )
    assert options["rate"] == 0.005
    assert options["duration_ns"] == 2 * 10**9
    assert options["threshold_ns"] == 10**9
    assert options["env"] == ("prod",)
    assert options["asynchronous"] is True
    assert options["check_load"] is False
    assert options["every_ns"] == 60 * 10**9


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("profile", {"raet": 1}, "unknown key for profile, given 'raet'"),
        ("profile", {"raet": 1}, "(did you mean rate?)"),
        ("profile", {"sample_rate": 1}, "profile has no sample_rate; it belongs to profile_production"),
        ("profile_production", {"rate": 0.1}, "(did you mean sample_rate?)"),
        ("profile", {"rate": 2}, "at most 1"),
        ("profile", {"rate": -1}, "not negative"),
        ("profile", {"rate": True}, "not a share"),
        ("profile", {"duration": 0}, "at least 1us"),
        ("profile", {"interval": "1us"}, "at least 100us"),
        ("profile", {"interval": "1h"}, "at most 10s"),
        ("profile", {"strategy": "sampel"}, "(did you mean sample?)"),
        ("profile", {"strategy": None}, "unknown strategy"),
        ("profile", {"format": "pdf"}, "unknown format"),
        ("profile", {"format": "dot"}, "strategy sample has no such format"),
        ("flame_graph", {"format": "text"}, "unknown format"),
        ("profile", {"env": []}, "never be active"),
        ("profile", {"env": 5}, "not a list of environments"),
        ("profile", {"env": ["dev", None]}, "not the name of an environment"),
        ("profile", {"env": "dev,prod"}, "one word"),
        ("profile", {"metadata": {str(i): i for i in range(17)}}, "too many keys (17)"),
        ("profile", {"metadata": {"a": [1]}}, "not a scalar"),
        ("profile", {"metadata": {1: 2}}, "not a name"),
        ("profile", {"metadata": "x"}, "not a mapping"),
        ("profile", {"output": "../x.svg"}, "lies in the output folder"),
        ("profile", {"output": "{targt}.svg"}, "(did you mean {target}?)"),
        ("profile", {"output": "{target.svg"}, "unknown placeholder"),
        ("profile", {"output": "a}.svg"}, "a } without {"),
        ("profile", {"output": "folder/"}, "a folder"),
        ("profile", {"output": ""}, "empty"),
        ("profile", {"output": "a\nb"}, "printable"),
        ("profile_if_slow", {}, "profile_if_slow needs threshold, a duration such as 100ms"),
        ("profile_if_slow", {"threshold": None}, "not a duration"),
        ("profile_if_slow", {"threshold": "5MB"}, "a unit of size where a duration belongs"),
        ("profile_memory", {"threshold": "5ms"}, "a unit of time where a size belongs"),
        ("flame_graph", {"strategy": "sample"}, "flame_graph has no strategy"),
        ("profile", {"for": "5m"}, "unknown key for profile"),
        ("none", {}, "unknown policy"),
        ("profil", {}, "(did you mean profile?)"),
    ],
)
def test_wrong_options_are_explained(kind: str, given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        options_for(kind, **given)
    assert message in str(caught.value)


def test_all_wrong_options_are_told_at_once() -> None:
    with pytest.raises(OptionError) as caught:
        options_for("profile", rate=7, raet=1, strategy="x")
    assert str(caught.value).count("; profile: ") == 2


def test_paths_may_be_path_objects(tmp_path: object) -> None:
    assert options_for("flame_graph", output=tmp_path)["output"] == str(tmp_path)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ("none", None), ("off", None), (0, 0), ("2s", 2 * 10**9)]
)
def test_every_can_be_switched_off(value: object, expected: object) -> None:
    assert options_for("flame_graph", every=value)["every_ns"] == expected
