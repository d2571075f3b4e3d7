"""Sizes, spans, addresses and rungs: text to value and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from lightship.spec.engines import OpenvinoEngineSpec
from lightship.spec.values import (
    ListenAddress,
    RungName,
    parse_listen,
    parse_rung,
    refuse_repeats,
    show_bytes,
    show_span,
)
from lightship.units import parse_bytes, parse_duration_s

PROPERTY = settings(max_examples=200, deadline=None, database=None)


@PROPERTY
@given(st.integers(0, 2**45))
def test_show_bytes_any_size_reads_back_exactly(num_bytes: int) -> None:
    assert parse_bytes(show_bytes(num_bytes)) == num_bytes


@PROPERTY
@given(st.integers(0, 10**7) | st.floats(60, 10**6).filter(lambda span_s: "e" not in repr(span_s)))
def test_show_span_any_span_reads_back_exactly(span_s: float) -> None:
    assert parse_duration_s(show_span(span_s)) == span_s


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [("127.0.0.1:8080", "127.0.0.1", 8080), ("[::1]:80", "::1", 80), ("example.org:0", "example.org", 0)],
)
def test_parse_listen_valid_text_gives_host_and_port(text: str, host: str, port: int) -> None:
    assert parse_listen(text) == ListenAddress(host, port)
    assert str(ListenAddress(host, port)) == text


@pytest.mark.parametrize("text", ["8080", ":8080", "::1:80", "host:65536", "host:", "a b:1", "host:-1"])
def test_parse_listen_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected host:port"):
        parse_listen(text)


def test_parse_rung_valid_text_gives_variant_and_engine() -> None:
    assert parse_rung("int8@openvino") == RungName("int8", "openvino")
    assert str(RungName("int8", "openvino")) == "int8@openvino"


@pytest.mark.parametrize("text", ["int8", "@openvino", "int8@", "INT8@openvino", "a@b@c"])
def test_parse_rung_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected variant@engine"):
        parse_rung(text)


def test_refuse_repeats_names_the_repeated_value() -> None:
    refuse_repeats((1, 2, 3))
    with pytest.raises(ValueError, match="2 is listed twice"):
        refuse_repeats((1, 2, 3, 2))


@pytest.mark.parametrize(("written", "read"), [("auto", None), (0, 0), (128, 128)])
def test_input_group_size_written_is_read_and_written_again(written: str | int, read: int | None) -> None:
    engine = OpenvinoEngineSpec.model_validate({"dynamic_quantization_group_size": written})
    assert engine.dynamic_quantization_group_size == read
    assert engine.model_dump()["dynamic_quantization_group_size"] == written


@pytest.mark.parametrize("written", ["off", -1, 65_537, 1.5, True])
def test_input_group_size_that_is_none_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        OpenvinoEngineSpec.model_validate({"dynamic_quantization_group_size": written})
