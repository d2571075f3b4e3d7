from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.cache.key import (
    MAX_KEYED_BYTES,
    BypassError,
    BypassReason,
    CacheableRequest,
    is_deterministic,
    may_be_deterministic,
    read_cacheable,
)

CHAT = "/v1/chat/completions"


def read(
    body: bytes | dict[str, Any],
    *,
    tenant: str = "t",
    path: str = CHAT,
    deterministic_only: bool = True,
    accepts_seed: bool = False,
) -> CacheableRequest:
    return read_cacheable(
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        tenant=tenant,
        path=path,
        deterministic_only=deterministic_only,
        accepts_seed=accepts_seed,
    )


def bypass_reason(body: bytes | dict[str, Any], *, accepts_seed: bool = False) -> BypassReason:
    with pytest.raises(BypassError) as caught:
        read(body, accepts_seed=accepts_seed)
    return caught.value.reason


ONE = b'{"model":"m","messages":[{"role":"user","content":"h\xc3\xa9"}],"temperature":0,"max_tokens":100}'
SAME = [
    b'{"max_tokens": 100, "temperature": 0.0, "messages": [{"content": "h\xc3\xa9", "role": "user"}], "model": "m"}',
    b'{"model":"m","messages":[{"role":"user","content":"h\\u00e9"}],"temperature":-0.0,"max_tokens":1e2}',
    b'{"model":"m@int4","messages":[{"role":"user","content":"h\xc3\xa9"}],"temperature":0e0,"max_tokens":100.0}',
    ONE[:-1] + b',"user":"u","metadata":{"a":"b"},"store":true,"safety_identifier":"s"}',
    ONE[:-1] + b',"prompt_cache_key":"k","service_tier":"flex"}',
]
OTHER = [
    b'{"model":"m","messages":[{"role":"user","content":"he\xcc\x81"}],"temperature":0,"max_tokens":100}',
    b'{"model":"m","messages":[{"role":"user","content":"h\xc3\xa9 "}],"temperature":0,"max_tokens":100}',
    b'{"model":"m","messages":[{"role":"user","content":"h\xc3\xa9"}],"temperature":0,"max_tokens":101}',
    b'{"model":"m","messages":[{"role":"user","content":"h\xc3\xa9"}],"temperature":0,"max_tokens":"100"}',
    b'{"model":"m","messages":[{"role":"user","content":"h\xc3\xa9"}],"temperature":0}',
    ONE[:-1] + b',"top_p":0.5}',
    ONE[:-1] + b',"seed":1}',
    ONE[:-1] + b',"n":1}',
    ONE[:-1] + b',"chat_template_kwargs":{"x":false}}',
    ONE[:-1] + b',"chat_template_kwargs":{"x":0}}',
    ONE[:-1] + b',"chat_template_kwargs":{"x":null}}',
    ONE[:-1] + b',"tools":[{"user":"nested fields of that name count"}]}',
]


@pytest.mark.parametrize("body", SAME)
def test_key_same_request_in_other_words_is_the_same(body: bytes) -> None:
    assert read(body).key == read(ONE).key


def test_key_different_requests_have_different_keys() -> None:
    digests = {read(body).key.digest for body in [ONE, *OTHER]}
    assert len(digests) == 1 + len(OTHER)


def test_key_form_of_the_answer_is_not_part_of_it() -> None:
    whole = read(ONE)
    streamed = read(ONE[:-1] + b',"stream":true,"stream_options":{"include_usage":true}}')
    assert whole.key == streamed.key
    assert (whole.is_streaming, whole.wants_usage) == (False, False)
    assert (streamed.is_streaming, streamed.wants_usage) == (True, True)
    assert not read(ONE[:-1] + b',"stream_options":{"include_usage":true}}').wants_usage


def test_key_tenant_path_and_variant_are_part_of_it() -> None:
    keys = {read(ONE, tenant=tenant, path=path).key for tenant in ("", "a", "b") for path in (CHAT, "/v1/completions")}
    assert len(keys) == 6
    assert len({key.for_variant(digest) for key in keys for digest in ("", "sha256:1", "sha256:2")}) == 18


def test_key_served_models_do_not_share_the_name_of_a_variant() -> None:
    keys = {read_cacheable(ONE, tenant="t", path=CHAT, served_model=model).key for model in ("a", "b")}
    assert len({key.for_variant("default") for key in keys}) == 2


def test_key_tenant_and_path_cannot_be_shifted_into_each_other() -> None:
    assert read(ONE, tenant='a","b', path="c").key != read(ONE, tenant="a", path='b","c').key


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"temperature":0,"temperature":0}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"user":"a","user":"b"}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"tools":[{"a":[{"b":1,"b":1}]}]}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"a":1,"\\u0061":2}', BypassReason.AMBIGUOUS),
        (b'{"temperature" :0,"a" : 1, "b":1,"b":2}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"k\\\\":1,"a":1,"a":1}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"k\\u005c":1,"a":1,"a":1}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"\\":":"\\":","a":1,"a":1}', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"x":0.' + b"1" * 50 + b"}", BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"x":1e99999999999999999999}', BypassReason.AMBIGUOUS),
        (b"[1]", BypassReason.AMBIGUOUS),
        (b'{"temperature":0', BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"a":' + b"[" * 5000 + b"]" * 5000 + b"}", BypassReason.AMBIGUOUS),
        (b'{"temperature":0,"n":2}', BypassReason.SEVERAL_CHOICES),
        (b'{"temperature":0,"best_of":2}', BypassReason.SEVERAL_CHOICES),
        (b'{"temperature":0,"n":true}', BypassReason.SEVERAL_CHOICES),
        (
            b'{"temperature":0,"stream":true,"stream_options":{"continuous_usage_stats":true}}',
            BypassReason.STREAM_OPTIONS,
        ),
        (b'{"temperature":0,"stream":true,"stream_options":[]}', BypassReason.STREAM_OPTIONS),
        (b'{"temperature":0,"prompt":"' + b"x" * MAX_KEYED_BYTES + b'"}', BypassReason.TOO_LARGE),
    ],
)
def test_key_what_could_be_read_in_two_ways_is_not_cacheable(body: bytes, reason: BypassReason) -> None:
    assert bypass_reason(body) is reason


@pytest.mark.parametrize(
    "body",
    [
        b'{"temperature":0,"k\\\\":1,"a":1}',
        b'{"temperature":0,"\\":":"\\":"}',
        b'{"temperature":0,"a":"{\\"temperature\\":0,\\"temperature\\":1}"}',
        b'{"temperature":0,"a":"\\\\\\":\\\\\\":"}',
        b'{"temperature" : 0 , "a" : "\\u0022:" }',
        b'{"temperature":0,"a":1E2,"b":[1.50,{"c":1e-7}],"d":100000000000000000000000000}',
    ],
)
def test_key_odd_but_clear_bodies_are_cacheable(body: bytes) -> None:
    assert read(body).key.digest


@pytest.mark.parametrize(
    ("request_fields", "accepts_seed", "expected"),
    [
        ({"temperature": 0}, False, True),
        ({"temperature": 0.0}, False, True),
        ({}, False, False),
        ({"temperature": None}, False, False),
        ({"temperature": False}, False, False),
        ({"temperature": "0"}, False, False),
        ({"temperature": 1e-9}, False, False),
        ({"temperature": 1, "seed": 7}, False, False),
        ({"temperature": 1, "seed": 7}, True, True),
        ({"temperature": 1, "seed": None}, True, False),
        ({"temperature": 1, "seed": True}, True, False),
    ],
)
def test_deterministic_is_what_is_explicitly_so(
    request_fields: dict[str, Any], accepts_seed: bool, expected: bool
) -> None:
    assert is_deterministic(request_fields, accepts_seed=accepts_seed) is expected
    if expected:
        read(request_fields, accepts_seed=accepts_seed)
        assert may_be_deterministic(json.dumps(request_fields).encode(), accepts_seed=accepts_seed)
    else:
        assert bypass_reason(request_fields, accepts_seed=accepts_seed) is BypassReason.NOT_DETERMINISTIC


@pytest.mark.parametrize("zero", ["0", "-0", "0.0", "-0.00", "0e5", "0E-7", "0.0e+9"])
@pytest.mark.parametrize("form", ['{"temperature":%s}', '{ "temperature" :\t%s\n, "x":"\\"temperature\\":1" }'])
def test_deterministic_quick_look_knows_every_spelling_of_zero(zero: str, form: str) -> None:
    body = (form % zero).encode()
    assert may_be_deterministic(body)
    assert read(body).key.digest


@pytest.mark.parametrize(
    "body", ['{"temperature":0.1}', '{"temperature":"0"}', '{"temperature":null}', '{"x":"temperature"}']
)
def test_deterministic_quick_look_lets_others_go(body: str) -> None:
    assert not may_be_deterministic(body.encode())
    assert not may_be_deterministic(body.encode(), accepts_seed=True)


def test_key_any_temperature_is_cacheable_where_that_was_opted_into() -> None:
    assert read({"temperature": 0.7}, deterministic_only=False).key != read({}, deterministic_only=False).key


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.text(max_size=6).filter(lambda name: name not in {"n", "temperature"})
REQUESTS = st.dictionaries(NAMES, JSON, max_size=4).map(lambda fields: {**fields, "temperature": 0})


def shuffled(value: Any, data: st.DataObject) -> Any:
    if isinstance(value, dict):
        keys = data.draw(st.permutations(sorted(value)))
        return {key: shuffled(value[key], data) for key in keys}
    if isinstance(value, list):
        return [shuffled(item, data) for item in value]
    return value


@given(request=REQUESTS, data=st.data())
def test_key_order_blanks_and_escapes_do_not_matter(request: dict[str, Any], data: st.DataObject) -> None:
    again = json.dumps(
        shuffled(request, data), ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
    )
    assert read(again.encode("utf-8", "surrogatepass")).key == read(request).key


@given(one=REQUESTS, other=REQUESTS)
def test_key_is_equal_only_for_equal_requests(one: dict[str, Any], other: dict[str, Any]) -> None:
    def relevant(fields: dict[str, Any]) -> str:
        return json.dumps(
            {name: value for name, value in fields.items() if name not in {"model", "user", "store"}}, sort_keys=True
        )

    assert (read(one).key == read(other).key) == (relevant(one) == relevant(other))


@given(request=REQUESTS, other=REQUESTS, tenants=st.lists(st.text(max_size=5), min_size=2, max_size=2, unique=True))
def test_key_of_two_tenants_never_meet(request: dict[str, Any], other: dict[str, Any], tenants: list[str]) -> None:
    def encoded(tenant: str) -> bytes:
        return tenant.encode("utf-8", "surrogatepass")

    mine = read(request, tenant=encoded(tenants[0]).hex()).key.for_variant("v")
    for digest in ("v", "w", ""):
        assert read(request, tenant=encoded(tenants[1]).hex()).key.for_variant(digest) != mine
        assert read(other, tenant=encoded(tenants[1]).hex()).key.for_variant(digest) != mine


@given(request=REQUESTS, data=st.data())
def test_key_any_duplicate_key_is_seen(request: dict[str, Any], data: st.DataObject) -> None:
    text = json.dumps(request, separators=data.draw(st.sampled_from([(",", ":"), (", ", ": "), (" , ", " : ")])))
    name = data.draw(st.sampled_from(sorted(request)))
    with pytest.raises(BypassError):
        read(f"{text[:-1]},{json.dumps(name)}:0}}".encode())
