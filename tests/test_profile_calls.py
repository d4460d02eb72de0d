"""The policy profile_calls: entries of the target in one outermost call, and of what it calls."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from autoprof import session, testing
from tests import counted, mechanisms
from tests.counted import SOURCE, Make

MONITORING: Any = getattr(sys, "monitoring", None)


make = counted.make


@pytest.mark.parametrize("callees", [True, False])
def test_fibonacci(make: Make, callees: bool) -> None:
    counted = make("fibonacci", callees=callees)
    with testing.capture() as events:
        assert counted.fibonacci(10) == 55
        assert counted.fibonacci(5) == 5
    assert events.names == ["start", "stop", "calls", "complete"] * 2
    assert [each.measurements for each in events.named("calls")] == [{"calls": 177}, {"calls": 15}]
    own = {"subject_calls:fibonacci": 176} if callees else {}
    event = events.named("calls")[0]
    assert event.metadata["callees"] == own
    assert (event.metadata["policy"], event.metadata["strategy"]) == ("profile_calls", "calls")
    assert counted.figures("fibonacci") == (192, 2, {"nested": 190})


@pytest.mark.usefixtures("no_flushes")
def test_callees_of_every_kind(make: Make) -> None:
    counted = make("work")
    with testing.capture("calls") as events:
        counted.work()
        counted.work()
    expected = {"subject_calls:helper": 2, "builtins:len": 1}
    assert [each.metadata["callees"] for each in events] == [expected] * 2
    assert counted.probe("work").take_callees() == {"subject_calls:helper": 4, "builtins:len": 2}


@pytest.mark.usefixtures("no_flushes")
def test_without_callees_nothing_else_is_followed(make: Make) -> None:
    counted = make("work", callees=False)
    with testing.capture("calls") as events:
        counted.work()
    assert (events[0].measurements, events[0].metadata["callees"]) == ({"calls": 1}, {})
    assert counted.probe("work").take_callees() == {}


@pytest.mark.parametrize("callees", [True, False])
def test_calls_that_raise(make: Make, callees: bool) -> None:
    counted = make("work", callees=callees)
    with testing.capture() as events, pytest.raises(KeyError):
        counted.work(fail=KeyError())
    assert events.names == ["start", "exception", "calls", "complete"]
    assert events.named("calls")[0].measurements == {"calls": 1}


@pytest.mark.usefixtures("no_flushes")
def test_callees_are_measured_at_the_rate_and_calls_are_exact(make: Make) -> None:
    counted = make("work", rate=0.1)
    with testing.capture("calls") as events:
        for _ in range(2000):
            counted.work()
    probe = counted.probe("work")
    assert probe.calls == 2000
    assert len(events) == probe.profiled
    assert 100 < probe.profiled < 320
    assert probe.take_callees()["subject_calls:helper"] == 2 * probe.profiled


@pytest.mark.parametrize("callees", [True, False])
def test_only_outermost_calls_are_drawn(make: Make, callees: bool) -> None:
    counted = make("fibonacci", callees=callees, rate=0.2)
    with testing.capture("calls") as events:
        for _ in range(300):
            counted.fibonacci(7)
    assert {each.measurements["calls"] for each in events} == {41}
    assert 25 < len(events) < 110
    calls, profiled, skipped = counted.figures("fibonacci")
    assert (calls, profiled, set(skipped)) == (300 * 41, len(events), {"nested"})


def test_several_functions_at_once_without_callees(make: Make) -> None:
    counted = make("*", callees=False)
    with testing.capture("calls") as events:
        counted.work(act=lambda: counted.fibonacci(5))
    found = [(each.target.partition(":")[2], each.measurements["calls"]) for each in events]
    everyone = [("helper", 1), ("helper", 1), ("fibonacci", 15), ("work", 1)]
    assert found == (everyone if MONITORING is not None else everyone[-1:])
    assert counted.probe("fibonacci").calls == 15
    assert counted.probe("helper").calls == 2


def test_a_getter_and_its_setter_are_one_target(make: Make) -> None:
    source = (
        "class Box:\n"
        "    @property\n    def value(self):\n        self.value = 1\n        return 2\n"
        "    @value.setter\n    def value(self, new):\n        pass\n"
    )
    counted = make("Box.value", source)
    with testing.capture("calls") as events:
        assert counted.Box().value == 2
    assert [each.measurements for each in events] == [{"calls": 2}]


def test_shares_the_trace_with_a_call_graph(tmp_path: Path) -> None:
    name = "subject_calls"
    start = mechanisms.policy(name, str(tmp_path / "out"))
    start["rules"] = [
        {"match": f"{name}:work", "policy": "profile_calls"},
        {"match": f"{name}:work", "policy": "profile", "strategy": "fprof", "rate": 1.0},
    ]
    module = mechanisms.spliced_at_import(SOURCE, name, start)
    try:
        with testing.capture() as events:
            module.work()
        assert events.named("calls")[0].metadata["callees"]["subject_calls:helper"] == 2
        profiles = [each.metadata["profile"] for each in events.named("complete")]
        assert [each and Path(each).exists() for each in profiles].count(True) == 1
        assert session.current is not None
        assert [each.skipped for each in session.current.installer.probes.values()] == [{}, {}]
        assert sys.getprofile() is None
    finally:
        session.stop()
        del sys.modules[name]


@pytest.mark.usefixtures("no_flushes")
def test_emit_metrics_false_still_counts(make: Make) -> None:
    counted = make("work", emit_metrics=False)
    with testing.capture() as events:
        counted.work()
    assert not events
    assert counted.probe("work").take_callees() == {"subject_calls:helper": 2, "builtins:len": 1}


def test_callees_reach_the_report(make: Make, tmp_path: Path) -> None:
    from autoprof import cli

    counted = make("work")
    for _ in range(3):
        counted.work()
    session.stop()
    out = tmp_path / "report.json"
    assert cli.main(["report", str(tmp_path / "out"), "--format", "json", "-o", str(out)]) == 0
    (row,) = json.loads(out.read_text())["probes"]
    assert (row["policy"], row["strategy"], row["calls"]) == ("profile_calls", "calls", 3)
    assert row["callees"] == {"subject_calls:helper": 6, "builtins:len": 3}


QUERIES = """
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

class Base(DeclarativeBase): pass
class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
class Post(Base):
    __tablename__ = "posts"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))
class Comment(Base):
    __tablename__ = "comments"
    id: Mapped[int] = mapped_column(primary_key=True)
    post_id: Mapped[int] = mapped_column(ForeignKey("posts.id"))

def run_setup():
    engine = create_engine("sqlite://", poolclass=StaticPool)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([User(id=1), Post(id=1, user_id=1), Post(id=2, user_id=1), Comment(id=1, post_id=1)])
        session.commit()
    return engine

def fetch_related_data(session, id):
    user = session.get(User, id)
    posts = session.scalars(select(Post).where(Post.user_id == id)).all()
    comments = [session.scalars(select(Comment).where(Comment.post_id == post.id)).all() for post in posts]
    return user, posts, comments
"""


def test_how_many_queries(make: Make) -> None:
    """The guide's question: one for the user, one for the posts, one for each of two posts."""
    sqlalchemy = pytest.importorskip("sqlalchemy")
    counted = make("fetch_related_data", QUERIES)
    engine = counted.run_setup()
    statements: list[str] = []
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    try:
        for _ in range(2):  # the first call compiles and caches
            with sqlalchemy.orm.Session(engine) as orm_session, testing.capture("calls") as events:
                user, posts, comments = counted.fetch_related_data(orm_session, 1)
            assert (user.id, len(posts), [len(each) for each in comments]) == (1, 2, [1, 0])
            callees = events[0].metadata["callees"]
            assert callees["sqlite3:Cursor.execute"] == len(statements) == 4
            assert callees["sqlalchemy.orm.session:Session.scalars"] == 3
            assert callees["sqlalchemy.orm.session:Session.get"] == 1
            statements.clear()
    finally:
        engine.dispose()


def test_the_decorator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import autoprof

    monkeypatch.setenv("AUTOPROF_OUTPUT", str(tmp_path / "out"))
    decorated = "@__import__('autoprof').profile_calls\ndef fibonacci"
    try:
        module = mechanisms.plain(SOURCE.replace("def fibonacci", decorated), "subject_calls", {})
        with testing.capture("calls") as events:
            assert module.fibonacci(10) == 55
        assert events[0].measurements == {"calls": 177}
        (status,) = autoprof.status()
        assert (status.policy, status.strategy, status.calls, status.profiled) == (
            "profile_calls",
            "calls",
            177,
            1,
        )
    finally:
        session.stop()
        del sys.modules["subject_calls"]
