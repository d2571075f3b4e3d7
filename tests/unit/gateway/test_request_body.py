from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.request_body import MAX_PARAMETERS, read_head, with_model
from lightship.wire.errors import ApiError

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6) | st.sampled_from(["model", '"model": "x"']),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["model", "a", "\\", '"']), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(["messages", "a", 'quo"te', "models", "Model", "\\", "é"])
SPACES = st.sampled_from(["", " ", "\n\t", "\r\n  "])
MODEL_KEYS = st.sampled_from(['"model"', '"\\u006dodel"', '"mod\\u0065l"', '"m\\u006F\\u0064el"'])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[str, str]:
    """A body cut in two round its model value: everything but that value."""
    spaces = draw(st.lists(SPACES, min_size=4, max_size=4))
    before, after = (
        [
            f"{json.dumps(key, ensure_ascii=draw(st.booleans()))}{spaces[0]}:{spaces[1]}{json.dumps(value)}"
            for key, value in draw(st.lists(st.tuples(KEYS, JSON_VALUES), max_size=3))
        ]
        for _ in range(2)
    )
    head = "".join(f"{member}{spaces[2]},{spaces[3]}" for member in before)
    tail = "".join(f"{spaces[3]},{spaces[2]}{member}" for member in after)
    return f"{spaces[0]}{{{spaces[1]}{head}{draw(MODEL_KEYS)}{spaces[2]}:{spaces[3]}", f"{tail}}}{spaces[1]}"


@given(bodies(), st.sampled_from(['"old"', '"o\\u006cd"', '"o\\"ld"']), st.sampled_from(["new", 'n"é']))
def test_with_model_changes_that_value_and_no_other_byte(parts: tuple[str, str], old: str, new: str) -> None:
    before, after = parts
    body = f"{before}{old}{after}".encode()
    assert read_head(body).model == json.loads(old)
    changed = with_model(body, new)
    assert changed == before.encode() + json.dumps(new, ensure_ascii=False).encode() + after.encode()
    assert json.loads(changed)["model"] == new


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","\\u006dodel":"a"}',
        b'{"model":null,"x":{"model":1},"mod\\u0065l":"a"}',
        b' { "model" : {"model":[]} , "model" : "a" } ',
    ],
)
def test_read_head_duplicate_model_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        read_head(body)
    assert (caught.value.status, caught.value.param) == (400, "model")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","stream":true,"stream":false}', "stream"),
        (b'{"model":"a","max_tokens":1,"messages":[],"max_tokens":100000}', "max_tokens"),
        (b'{"model":"a","n":1,"\\u006e":9}', "n"),
        (b'{"model":"a","max_tokens":1,"max\\u005ftokens":9}', "max_tokens"),
        (b'{"model":"a","max_tokens":1,"max\\u005Ftokens":9}', "max_tokens"),
        (b'{"model":"a","bes\\u0074_of":1,"best_of":9}', "best_of"),
    ],
)
def test_read_head_field_it_decides_by_given_twice_is_refused(body: bytes, param: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_head(body)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, param, "duplicate_parameter")


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","stream":true,"metadata":{"stream":"x","n":"y"},"tools":[{"n":1},{"n":2}]}',
        b'{"model":"a","prompt":"\\u0061 \\u007a"}',
        b'{"model":"a","x":{"model":"b"},"y":[{"model":"c"}]}',
        b'{"x":"model","model":"a"}',
        b'{"x":"say \\"model\\": \\"b\\"","model":"a"}',
        b'{"temperature":0,"temperature":1,"model":"a"}',
        b'{"model":"a","x":"\\u006d\\u006f"}',
    ],
)
def test_read_head_word_model_elsewhere_is_fine(body: bytes) -> None:
    assert read_head(body).model == "a"
    assert json.loads(with_model(body, "z"))["model"] == "z"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[1]", "invalid_type"),
        (b"{}", "missing_parameter"),
        (b'{"model":null}', "missing_parameter"),
        (b'{"model":1}', "invalid_type"),
        (b'{"model":"a","stream":"yes"}', "invalid_type"),
        (b'{"model":"a"} trailing', "invalid_json"),
        (b'{"model":"a","x":"\xff"}', "invalid_json"),
        (b'{"model":"a","x":"\xed\xa0\x80"}', "invalid_json"),
        (b"\xef\xbb\xbf{}", "invalid_json"),
        (b'{"model":"a","x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", "invalid_json"),
        (b'{"model":"a","x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_000 + b"}", "invalid_json"),
        (b'{"x":"model","model":"a"' + b',"k":0' * MAX_PARAMETERS + b"}", "too_many_parameters"),
    ],
    ids=range(14),
)
def test_read_head_bad_body_is_a_400_that_names_it(body: bytes, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_head(body)
    assert (caught.value.status, caught.value.code) == (400, code)
