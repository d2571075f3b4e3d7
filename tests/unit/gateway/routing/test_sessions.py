from __future__ import annotations

from lightship.gateway.routing.sessions import SessionTable, session_key
from lightship.ports.engine import CallTerms


def test_session_key_is_the_tenants_own_and_none_without_a_session() -> None:
    assert session_key(CallTerms(tenant="t", session="s")) == ("t", "s")
    assert session_key(CallTerms(tenant="t")) is None


def test_sessions_remember_rung_and_replica_of_the_model_asked() -> None:
    sessions = SessionTable(10)
    sessions.remember(("t", "s"), 1, "r", served_model="m")
    assert sessions.rung_of(("t", "s"), served_model="m") == 1
    assert sessions.replica_of(("t", "s"), rung=1, served_model="m") == "r"
    assert sessions.replica_of(("t", "s"), rung=0, served_model="m") == ""
    assert sessions.rung_of(("t", "s"), served_model="n") is None
    assert sessions.rung_of(("u", "s"), served_model="m") is None


def test_sessions_are_bounded_and_the_least_recent_goes() -> None:
    sessions = SessionTable(2)
    for name in ("a", "b", "a", "c"):
        sessions.remember(("", name), 0, "r")
    assert [sessions.replica_of(("", name), rung=0) for name in "abc"] == ["r", "", "r"]
    sessions.apply(1)
    assert (len(sessions), sessions.replica_of(("", "c"), rung=0)) == (1, "r")
