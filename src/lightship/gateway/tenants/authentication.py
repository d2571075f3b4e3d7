"""Who sends a request: the key in its headers, looked up by its digest.

What a client learns: that a key is needed, or that its key is not valid. Whether it is unknown, expired or disabled is
only counted. A model the key may not use does not exist for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from lightship.gateway.tenants.keys import EVERYTHING, KeyRecord, KeyScopes, KeyState, digest_of
from lightship.wire.errors import ApiError, key_missing, key_refused, keys_contradict

# No key of anybody's is longer; the rest of a header is not hashed.
_MAX_KEY_BYTES = 512
# Below every class that can be configured.
_LEAST_IMPORTANCE = -(2**31)


class KeyFailure(StrEnum):
    """Why a request was not let in; a closed list, fit for a metric label."""

    MISSING = "missing"
    MALFORMED = "malformed"
    CONTRADICTORY = "contradictory"
    UNKNOWN = "unknown"
    EXPIRED = "expired"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request. `key_prefix` is "" for one without a key, whose tenant is ""."""

    tenant: str = ""
    key_prefix: str = ""
    scopes: KeyScopes = EVERYTHING

    def may_use(self, model: str) -> bool:
        """Whether the model of this name exists for it."""
        return self.scopes.allows(model)

    def max_importance(self, importance_of: Callable[[str], int | None]) -> float:
        """Importance of the best class it may use; one that is not configured any more is the least of all."""
        if not self.scopes.max_priority:
            return math.inf
        importance = importance_of(self.scopes.max_priority)
        return _LEAST_IMPORTANCE if importance is None else importance

    def default_priority(self, importance_of: Callable[[str], int | None]) -> str:
        """Class of its requests that name none; "", the gateway's default, where its own is not configured any more."""
        own = self.scopes.priority
        return own if own and importance_of(own) is not None else ""


ANONYMOUS = Principal()


@dataclass(frozen=True, slots=True)
class _Entry:
    record: KeyRecord
    principal: Principal
    until_unix_s: float


class KeyTable:
    """Keys by digest; never changed, only replaced as a whole.

    Args:
        records: At most one for each digest.
    """

    def __init__(self, records: Iterable[KeyRecord] = ()) -> None:
        self._entries: dict[bytes, _Entry] = {}
        for record in records:
            principal = Principal(record.tenant, record.prefix, record.scopes)
            self._entries[record.digest] = _Entry(record, principal, math.inf)
            if record.old_digest is not None:
                self._entries[record.old_digest] = _Entry(record, principal, record.old_until_unix_s)

    def __len__(self) -> int:
        """Secrets that are known, old ones included."""
        return len(self._entries)

    def find(self, key: str, now_unix_s: float) -> Principal | KeyFailure:
        """Whose key it is, or why it is not to be used."""
        entry = self._entries.get(digest_of(key))
        if entry is None:
            return KeyFailure.UNKNOWN
        state = entry.record.state(now_unix_s)
        if state is KeyState.DISABLED:
            return KeyFailure.DISABLED
        if state is KeyState.EXPIRED or now_unix_s >= entry.until_unix_s:
            return KeyFailure.EXPIRED
        return entry.principal


class Authenticator:
    """Decides who sends a request.

    Args:
        are_keys_required: Whether a request without a key is refused. Where it is not, a key that is not one of ours is
            taken for none, since clients send some key always; one of ours that does not work any more is refused.
        unix_s: The time.
        on_failure: Told of every refusal.

    Concurrency: one event loop; `table` is replaced as a whole.
    """

    def __init__(
        self, *, are_keys_required: bool, unix_s: Callable[[], float], on_failure: Callable[[KeyFailure], None]
    ) -> None:
        self.table = KeyTable()
        self.are_keys_required = are_keys_required
        self._unix_s = unix_s
        self._on_failure = on_failure

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Principal:
        """Who sends a request with these headers, named in lower case.

        Raises: ApiError: 401, no key or none that is valid; 400, two different ones.
        """
        try:
            key = presented_key(headers)
        except _KeyError as error:
            if error.failure is KeyFailure.MALFORMED and not self.are_keys_required:
                return ANONYMOUS
            raise self._refused(error.failure) from error
        if key is None:
            if self.are_keys_required:
                raise self._refused(KeyFailure.MISSING)
            return ANONYMOUS
        found = self.table.find(key, self._unix_s())
        if isinstance(found, Principal):
            return found
        if found is KeyFailure.UNKNOWN and not self.are_keys_required:
            return ANONYMOUS
        raise self._refused(found)

    def _refused(self, failure: KeyFailure) -> ApiError:
        self._on_failure(failure)
        return _ERRORS.get(failure, key_refused)()


_ERRORS: Mapping[KeyFailure, Callable[[], ApiError]] = {
    KeyFailure.MISSING: key_missing,
    KeyFailure.CONTRADICTORY: keys_contradict,
}


class _KeyError(Exception):
    def __init__(self, failure: KeyFailure) -> None:
        super().__init__(failure.value)
        self.failure = failure


def presented_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """The key in `authorization` or `x-api-key`; None where there is neither.

    Raises: _KeyError: it cannot be a key, or there are different ones.
    """
    found: bytes | None = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, given = value.strip().partition(b" ")
            if scheme.lower() != b"bearer":
                raise _KeyError(KeyFailure.MALFORMED)
            given = given.strip()
        elif name == b"x-api-key":
            given = value.strip()
        else:
            continue
        if found is not None and found != given:
            raise _KeyError(KeyFailure.CONTRADICTORY)
        found = given
    if found is None:
        return None
    if not found or len(found) > _MAX_KEY_BYTES or not found.isascii():
        raise _KeyError(KeyFailure.MALFORMED)
    return found.decode("ascii")
