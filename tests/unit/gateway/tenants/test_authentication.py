from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import pytest

from lightship.gateway.tenants.authentication import ANONYMOUS, Authenticator, KeyFailure, KeyTable, Principal
from lightship.gateway.tenants.keys import KeyRecord, KeyScopes, digest_of
from lightship.wire.errors import ApiError

KEY = "ls-abcdefgh-" + "A" * 43
OLD = "ls-abcdefgh-" + "B" * 43
NOW = 1_000_000.0
RECORD = KeyRecord(
    "abcdefgh", digest_of(KEY), "team", KeyScopes(), old_digest=digest_of(OLD), old_until_unix_s=NOW + 60
)


def authenticator(
    *records: KeyRecord, are_keys_required: bool = True, now_s: float = NOW
) -> tuple[Authenticator, list[KeyFailure]]:
    failures: list[KeyFailure] = []
    one = Authenticator(are_keys_required=are_keys_required, unix_s=lambda: now_s, on_failure=failures.append)
    one.table = KeyTable(records)
    return one, failures


def bearer(key: str) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


def refusal(one: Authenticator, headers: Iterable[tuple[bytes, bytes]]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        one.authenticate(headers)
    return caught.value


@pytest.mark.parametrize(
    "headers",
    [
        bearer(KEY),
        [(b"authorization", b"bearer   " + KEY.encode() + b" ")],
        [(b"x-api-key", KEY.encode())],
        [(b"x-api-key", KEY.encode()), *bearer(KEY)],
    ],
)
def test_authenticate_valid_key_gives_its_tenant(headers: list[tuple[bytes, bytes]]) -> None:
    one, failures = authenticator(RECORD)
    assert one.authenticate(headers) == Principal("team", "abcdefgh", KeyScopes())
    assert failures == []


def test_authenticate_missing_key_says_that_one_is_needed() -> None:
    one, failures = authenticator(RECORD)
    error = refusal(one, [(b"host", b"x")])
    assert (error.status, error.type) == (401, "authentication_error")
    assert "A key is needed" in error.message
    assert error.headers["www-authenticate"] == "Bearer"
    assert failures == [KeyFailure.MISSING]


def test_authenticate_unknown_expired_disabled_cannot_be_told_apart() -> None:
    records = [replace(RECORD, is_disabled=True), replace(RECORD, expires_unix_s=NOW), replace(RECORD, digest=b"other")]
    bodies, counted = set(), []
    for record in records:
        one, failures = authenticator(record)
        error = refusal(one, bearer(KEY))
        bodies.add((error.status, error.body_bytes(), tuple(error.headers.items())))
        counted += failures
    assert len(bodies) == 1
    assert counted == [KeyFailure.DISABLED, KeyFailure.EXPIRED, KeyFailure.UNKNOWN]


def test_authenticate_old_secret_works_until_its_time_is_over() -> None:
    assert authenticator(RECORD, now_s=NOW + 59)[0].authenticate(bearer(OLD)).tenant == "team"
    one, failures = authenticator(RECORD, now_s=NOW + 60)
    refusal(one, bearer(OLD))
    assert failures == [KeyFailure.EXPIRED]
    assert one.authenticate(bearer(KEY)).tenant == "team"


def test_authenticate_two_different_keys_is_400() -> None:
    one, failures = authenticator(RECORD)
    error = refusal(one, [*bearer(KEY), (b"x-api-key", OLD.encode())])
    assert error.status == 400
    assert failures == [KeyFailure.CONTRADICTORY]
    assert KEY not in error.message
    assert OLD not in error.message


@pytest.mark.parametrize(
    "value", [b"Basic dXNlcjpwYXNz", b"Bearer", b"Bearer  ", b"", b"Bearer \xff\xfe", b"Bearer " + b"a" * 600]
)
def test_authenticate_what_cannot_be_a_key_is_401(value: bytes) -> None:
    one, failures = authenticator(RECORD)
    assert refusal(one, [(b"authorization", value)]).status == 401
    assert failures == [KeyFailure.MALFORMED]


@pytest.mark.parametrize("headers", [[], bearer("EMPTY"), bearer("sk-none"), [(b"authorization", b"Basic eDp5")]])
def test_authenticate_keys_not_required_takes_foreign_keys_for_none(headers: list[tuple[bytes, bytes]]) -> None:
    one, failures = authenticator(RECORD, are_keys_required=False)
    assert one.authenticate(headers) == ANONYMOUS
    assert failures == []


def test_authenticate_keys_not_required_still_refuses_a_disabled_key() -> None:
    one, _ = authenticator(replace(RECORD, is_disabled=True), are_keys_required=False)
    assert refusal(one, bearer(KEY)).status == 401


def test_authenticate_keys_not_required_still_knows_tenants() -> None:
    assert authenticator(RECORD, are_keys_required=False)[0].authenticate(bearer(KEY)).tenant == "team"


def test_max_importance_of_a_class_that_is_gone_is_the_least() -> None:
    importance = {"low": 0, "high": 5}
    assert Principal().max_importance(importance.get) == math.inf
    assert Principal(scopes=KeyScopes(max_priority="high")).max_importance(importance.get) == 5
    assert Principal(scopes=KeyScopes(max_priority="gone")).max_importance(importance.get) < -1000


def test_default_priority_of_a_class_that_is_gone_is_the_gateways() -> None:
    importance = {"low": 0}
    assert Principal(scopes=KeyScopes(priority="low")).default_priority(importance.get) == "low"
    assert Principal(scopes=KeyScopes(priority="gone")).default_priority(importance.get) == ""
    assert Principal().default_priority(importance.get) == ""
