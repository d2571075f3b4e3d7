"""Incremental text equals the whole text; stop strings are found wherever the pieces break."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightship.engines.openvino.text import StopMatcher, TokenWindow, advance_all, context_tail


def decode_bytes(batch: list[list[int]]) -> list[str]:
    """A tokenizer whose tokens are bytes: the hardest case for character borders."""
    return [bytes(tokens).decode("utf-8", errors="replace") for tokens in batch]


WORDS = ["▁the", "▁dog", "s", "▁", ".", "é", "▁日本", ""]


def decode_words(batch: list[list[int]]) -> list[str]:
    """A tokenizer that marks spaces and drops the one in front of a text."""
    return ["".join(WORDS[token] for token in tokens).replace("▁", " ").removeprefix(" ") for tokens in batch]


def stream(decode: object, tokens: list[int], context: list[int], sizes: list[int]) -> list[str]:
    assert callable(decode)
    tail = context_tail(context)
    window = TokenWindow(tail, decode([tail])[0])
    pieces, begin, step = [], 0, 0
    while begin < len(tokens):
        size = sizes[step % len(sizes)]
        window.extend(tokens[begin : begin + size])
        begin, step = begin + size, step + 1
        pieces += advance_all(decode, [(window, begin >= len(tokens))])
    return pieces


@given(st.text(max_size=120), st.lists(st.integers(1, 7), min_size=1, max_size=5))
def test_stream_of_byte_tokens_equals_text_without_half_characters(text: str, sizes: list[int]) -> None:
    pieces = stream(decode_bytes, list(text.encode("utf-8", errors="replace")), [], sizes)
    expected = text.encode("utf-8", errors="replace").decode()
    assert "".join(pieces) == expected
    assert all(("\ufffd" not in piece) or "\ufffd" in expected for piece in pieces)


@given(
    st.lists(st.integers(0, len(WORDS) - 1), max_size=40),
    st.lists(st.integers(0, len(WORDS) - 1), max_size=150),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
)
def test_stream_after_prompt_equals_rest_of_whole_text(prompt: list[int], tokens: list[int], sizes: list[int]) -> None:
    whole = decode_words([[*prompt, *tokens]])[0]
    # the prompt is only its end here, as in the worker; that end may lose a space the whole prompt does not
    pieces = stream(decode_words, tokens, prompt, sizes)
    begin = decode_words([context_tail(prompt)])[0]
    end = decode_words([[*context_tail(prompt), *tokens]])[0]
    assert "".join(pieces) == end[len(begin) :]
    assert whole.endswith("".join(pieces))


def test_window_long_text_stays_short() -> None:
    window = TokenWindow()
    longest = 0
    for token in "The 日本 dog 😀 ran. ".encode() * 50:
        window.extend([token])
        advance_all(decode_bytes, [(window, False)])
        longest = max(longest, len(window.tokens))
    assert longest <= 40


def test_window_endless_broken_bytes_are_sent_and_stay_bounded() -> None:
    window = TokenWindow()
    sent = ""
    for _ in range(1000):
        window.extend([0x80])
        sent += advance_all(decode_bytes, [(window, False)])[0]
        assert len(window.tokens) <= 110
    assert set(sent) == {"\ufffd"}
    assert len(sent) >= 900


def test_advance_all_decodes_every_sequence_in_one_call() -> None:
    calls = []

    def decode(batch: list[list[int]]) -> list[str]:
        calls.append(len(batch))
        return decode_bytes(batch)

    windows = [TokenWindow() for _ in range(32)]
    for window in windows:
        window.extend(b"hi")
    assert advance_all(decode, [(window, False) for window in windows]) == ["hi"] * 32
    assert calls == [32]


@given(
    st.text(alphabet="ab", max_size=40),
    st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(1, 5), min_size=1, max_size=6),
)
def test_stop_matcher_any_pieces_cut_at_first_stop_string(text: str, stops: list[str], sizes: list[int]) -> None:
    matcher = StopMatcher(stops)
    sent, begin, step, is_stopped = "", 0, 0, False
    while not is_stopped:
        size = sizes[step % len(sizes)]
        is_last = begin + size >= len(text)
        piece, is_stopped = matcher.feed(text[begin : begin + size], is_last=is_last)
        sent, begin, step = sent + piece, begin + size, step + 1
        if is_last:
            break
    # oracle: the end of the earliest complete stop string decides, as in a text that grows by single characters
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if not ends:
        assert (sent, is_stopped) == (text, False)
        return
    assert is_stopped
    assert not any(stop in sent for stop in stops)
    assert text.startswith(sent)
    assert any(text.startswith(stop, len(sent)) for stop in stops)


def test_stop_matcher_sends_what_cannot_be_a_stop_string_at_once() -> None:
    matcher = StopMatcher(["\n\n"])
    assert matcher.feed("a\n") == ("a", False)
    assert matcher.feed("b") == ("\nb", False)
    assert matcher.feed("\n") == ("", False)
    assert matcher.feed("\nc") == ("", True)


def test_stop_matcher_end_of_text_gives_what_was_held() -> None:
    matcher = StopMatcher(["END"])
    assert matcher.feed("the EN") == ("the ", False)
    assert matcher.feed("", is_last=True) == ("EN", False)
