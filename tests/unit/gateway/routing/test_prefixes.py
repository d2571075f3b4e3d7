from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightship.gateway.routing.prefixes import PrefixIndex, prompt_of

CHAT, COMPLETIONS, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"


def index(*, capacity: int = 1000, block_bytes: int = 16, max_blocks: int = 8) -> PrefixIndex:
    return PrefixIndex(capacity=capacity, block_bytes=block_bytes, max_blocks=max_blocks, secret=b"secret")


def chat(*turns: str, **fields: Any) -> bytes:
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": turn} for n, turn in enumerate(turns)]
    return json.dumps({"model": "m", **fields, "messages": messages, "stream": True}).encode()


@pytest.mark.parametrize(
    ("body", "path", "expected"),
    [
        pytest.param(b'{"messages": [1, "a"] ,"x":1}', CHAT, (b"", b'[1, "a"]'), id="chat"),
        pytest.param(b'{"tools":[{}],"messages":[]}', CHAT, (b"[{}]", b"[]"), id="tools"),
        pytest.param(b'{"m\\u0065ssages":"x"}', CHAT, (b"", b'"x"'), id="escaped-key"),
        pytest.param(b'{"user":"\\"messages\\":1","messages":"x"}', CHAT, (b"", b'"x"'), id="key-in-a-string"),
        pytest.param(b'{"metadata":{"messages":1},"messages":2}', CHAT, (b"", b"2"), id="nested-key"),
        pytest.param(b'{"prompt":"x"}', CHAT, (b"", b""), id="no-messages"),
        pytest.param(b'{"prompt":[1,2]}', COMPLETIONS, (b"", b"[1,2]"), id="tokens"),
        pytest.param(b'{"instructions":"i","input":"x"}', RESPONSES, (b'"i"', b'"x"'), id="responses"),
        pytest.param(b'{"input":"x"}', "/v1/embeddings", (b"", b""), id="embeddings"),
        pytest.param(b"[]", CHAT, (b"", b""), id="no-object"),
    ],
)
def test_prompt_is_cut_out_of_the_body_as_it_is(body: bytes, path: str, expected: tuple[bytes, bytes]) -> None:
    assert prompt_of(body, path) == expected


TEXTS = st.text(min_size=0, max_size=80)


@given(st.lists(TEXTS, min_size=1, max_size=4), st.lists(TEXTS, max_size=3))
def test_keys_of_a_conversation_that_grows_begin_with_those_it_had(turns: list[str], more: list[str]) -> None:
    prefixes = index(max_blocks=100)
    _, before = prompt_of(chat(*turns, max_tokens=5), CHAT)
    _, after = prompt_of(chat(*turns, *more, temperature=0), CHAT)
    keys = prefixes.keys_of(after, model="v")
    had = prefixes.keys_of(before, model="v")
    num_whole = (len(before) - 1) // 16  # the last byte closes the list
    assert keys[:num_whole] == had[:num_whole]
    assert len(had) - num_whole <= 1


def test_keys_differ_by_model_tenant_tools_and_everything_before() -> None:
    prefixes = index()
    prompt = b"0123456789abcdef" * 3
    different = [
        prefixes.keys_of(prompt, model="v"),
        prefixes.keys_of(prompt, model="w"),
        prefixes.keys_of(prompt, model="v", tenant="t"),
        prefixes.keys_of(prompt, model="vt"),
        prefixes.keys_of(prompt, model="v", tools=b"t"),
        prefixes.keys_of(b"X" + prompt[1:], model="v"),
        PrefixIndex(capacity=9, block_bytes=16, max_blocks=8, secret=b"other").keys_of(prompt, model="v"),
    ]
    keys = [key for some in different for key in some]
    assert len(keys) == len(set(keys)) == 21


def test_keys_only_of_whole_blocks_and_no_more_than_the_most() -> None:
    prefixes = index(max_blocks=3)
    assert [len(prefixes.keys_of(b"x" * n, model="v")) for n in (0, 15, 16, 47, 48, 1000)] == [0, 0, 1, 2, 3, 3]


def test_known_blocks_are_counted_from_the_beginning() -> None:
    prefixes = index()
    keys = prefixes.keys_of(bytes(range(16 * 5)), model="v")
    prefixes.remember(keys, "long")
    prefixes.remember(keys[:2], "short")
    prefixes.remember(keys[3:], "late")
    assert prefixes.known_blocks(keys) == {"long": 5, "short": 2}
    assert prefixes.known_blocks(keys[:1]) == {"long": 1, "short": 1}
    assert prefixes.known_blocks(keys[3:]) == {"long": 2, "late": 2}
    assert prefixes.known_blocks([]) == {}


def test_index_is_bounded_and_forgets_the_least_recent_and_the_ends_first() -> None:
    prefixes = index(capacity=6)
    first = prefixes.keys_of(b"a" * 64, model="v")
    second = prefixes.keys_of(b"b" * 64, model="v")
    prefixes.remember(first, "r")
    prefixes.remember(second, "r")
    assert len(prefixes) == 6
    assert prefixes.known_blocks(first) == {"r": 2}
    assert prefixes.known_blocks(second) == {"r": 4}


def test_index_lost_replica_is_forgotten_and_its_place_used_again() -> None:
    prefixes = index()
    keys = prefixes.keys_of(b"a" * 64, model="v")
    prefixes.remember(keys, "lost")
    prefixes.remember(keys[:1], "kept")
    prefixes.forget("lost")
    assert prefixes.known_blocks(keys) == {"kept": 1}
    prefixes.remember(keys[:1], "new")
    prefixes.remember(keys[:2], "lost")  # it is back
    assert prefixes.known_blocks(keys) == {"kept": 1, "new": 1, "lost": 2}
    prefixes.forget("never seen")


def test_index_many_lost_replicas_leave_nothing_behind() -> None:
    prefixes = index()
    keys = prefixes.keys_of(b"a" * 64, model="v")
    prefixes.remember(keys[:1], "kept")
    for number in range(1000):
        prefixes.remember(keys[1:], f"r{number}")
        prefixes.forget(f"r{number}")
    assert prefixes.known_blocks(keys) == {"kept": 1}
    assert prefixes.known_blocks(keys[1:]) == {}


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("remember"), st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 6)),
            st.tuples(st.just("forget"), st.sampled_from("abc"), st.just(0), st.just(0)),
        ),
        max_size=150,
    )
)
def test_index_agrees_with_a_plain_dictionary_of_sets(steps: list[tuple[str, str, int, int]]) -> None:
    prefixes = index(capacity=10_000)
    prompts = [prefixes.keys_of(bytes([65 + n]) * 32 + b"tail" * 16, model="v") for n in range(4)]
    oracle: dict[bytes, set[str]] = {}
    for step, name, prompt, num_blocks in steps:
        if step == "forget":
            prefixes.forget(name)
            for holders in oracle.values():
                holders.discard(name)
        else:
            prefixes.remember(prompts[prompt][:num_blocks], name)
            for key in prompts[prompt][:num_blocks]:
                oracle.setdefault(key, set()).add(name)
    for keys in prompts:
        expected = {}
        for name in "abc":
            num = next((n for n, key in enumerate(keys) if name not in oracle.get(key, set())), len(keys))
            if num:
                expected[name] = num
        assert prefixes.known_blocks(keys) == expected
