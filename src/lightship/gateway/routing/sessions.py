"""Which rung and replica answered a session last: a bounded memory, the least recently used forgotten first."""

from __future__ import annotations

from collections import OrderedDict

from lightship.ports.engine import CallTerms

SessionKey = tuple[str, str]
"""Tenant and session: a session's name is the client's own, and must not lead into another tenant's session."""


def session_key(terms: CallTerms) -> SessionKey | None:
    """The key of the session a call belongs to, or None where it belongs to none."""
    return (terms.tenant, terms.session) if terms.session else None


class SessionTable:
    """Sessions that were seen lately, at most `capacity` of them.

    Concurrency: one event loop.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._places: OrderedDict[SessionKey, tuple[str, int, str]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._places)

    def rung_of(self, session: SessionKey, *, served_model: str = "") -> int | None:
        """The rung of the model's ladder that answered the session last, or None where it is not known."""
        place = self._places.get(session)
        return place[1] if place is not None and place[0] == served_model else None

    def replica_of(self, session: SessionKey, *, rung: int, served_model: str = "") -> str:
        """The replica of that rung that answered the session last, or "" where there is none."""
        place = self._places.get(session)
        return place[2] if place is not None and place[:2] == (served_model, rung) else ""

    def remember(self, session: SessionKey, rung: int, replica: str, *, served_model: str = "") -> None:
        """Effects: the session stays there where it can."""
        places = self._places
        places[session] = (served_model, rung, replica)
        places.move_to_end(session)
        if len(places) > self._capacity:
            places.popitem(last=False)

    def apply(self, capacity: int) -> None:
        """Effects: keeps no more than `capacity` sessions from now on."""
        self._capacity = capacity
        while len(self._places) > capacity:
            self._places.popitem(last=False)
