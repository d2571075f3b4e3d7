"""Loading: order of origins, environment names, flags, and round trips."""

from __future__ import annotations

import json
from pathlib import Path as FilePath
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightship.errors import SpecError
from lightship.spec.document import Spec
from lightship.spec.explain import leaves, show_value
from lightship.spec.load import Origin, parse_spec
from lightship.spec.paths import Path, nested, show_path
from lightship.spec.schema import keys_at, leaf_paths
from lightship.spec.source import BuiltinSource, FolderSource
from lightship.spec.values import ListenAddress, RungName
from lightship.spec.yaml_text import read_yaml

PROPERTY = settings(max_examples=100, deadline=None, database=None)
DEFAULTS = leaves(Spec())
SECTIONS = sorted({path[:length] for path in DEFAULTS for length in range(len(path))}, key=str)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n", "{}", "null"])
def test_parse_spec_empty_text_is_all_defaults(text: str) -> None:
    loaded = parse_spec(text)
    assert loaded.spec == Spec()
    assert set(loaded.origins.values()) == {Origin.DEFAULT}
    assert list(loaded.origins) == [show_path(path) for path in DEFAULTS]


def test_parse_spec_defaults_serve_the_built_in_model() -> None:
    spec = parse_spec("").spec
    assert (spec.model.source, spec.model.name) == (BuiltinSource("fairytales"), "fairytales")
    assert (spec.slo.ttft_ms, spec.slo.tpot_ms, spec.slo.attainment) == (400, 40, 0.95)
    assert (spec.engines.openvino.threads, spec.engines.openvino.kv_cache_size) == (0, 1024**3)
    assert spec.gateway.listen == ListenAddress("127.0.0.1", 8080)
    assert spec.measurement.concurrencies == (1, 8, 32)


def test_parse_spec_later_origin_wins_and_is_named() -> None:
    loaded = parse_spec(
        "model: {name: file}\nslo: {ttft_ms: 1, tpot_ms: 2, attainment: 0.5}\n",
        environment={
            "LIGHTSHIP__SLO__TTFT_MS": "3",
            "lightship__slo__Tpot_ms": "4",
            "LIGHTSHIP_HOME": "/x",
            "HOME": "/",
        },
        overrides=["slo.ttft_ms=5", "slo.ttft_ms=6"],
    )
    assert (loaded.spec.slo.ttft_ms, loaded.spec.slo.tpot_ms, loaded.spec.slo.attainment) == (6, 4, 0.5)
    origins = {path: origin for path, origin in loaded.origins.items() if origin is not Origin.DEFAULT}
    assert origins == {
        "model.name": Origin.FILE,
        "slo.ttft_ms": Origin.FLAG,
        "slo.tpot_ms": Origin.ENVIRONMENT,
        "slo.attainment": Origin.FILE,
    }


def test_parse_spec_name_follows_source_unless_given() -> None:
    assert parse_spec("model: {source: ./models/tiny}").spec.model.name == "tiny"
    model = parse_spec("model: {source: ./models/tiny, name: teller}").spec.model
    assert (model.source, model.name) == (FolderSource(FilePath("models/tiny")), "teller")


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("model.name=5", ("model", "name"), "5"),
        ("model.name=true", ("model", "name"), "true"),
        ("engines.openvino.threads=2", ("engines", "openvino", "threads"), 2),
        ("engines.openvino.prefix_caching=false", ("engines", "openvino", "prefix_caching"), False),
        ("engines.openvino.kv_cache_size=512 MiB", ("engines", "openvino", "kv_cache_size"), "512 MiB"),
        ("engines.openvino.kv_cache_size=1073741824", ("engines", "openvino", "kv_cache_size"), "1 GiB"),
        ("variants=[fp16, int8]", ("variants",), ["fp16", "int8"]),
        ("slo={ttft_ms: 9}", ("slo", "ttft_ms"), 9),
        ("gateway.listen=[::1]:0", ("gateway", "listen"), "[::1]:0"),
    ],
)
def test_parse_spec_flag_value_is_read_by_what_belongs_there(override: str, path: Path, expected: Any) -> None:
    assert leaves(parse_spec("", overrides=[override]).spec)[path] == expected


def test_parse_spec_explicit_ladder_gives_rungs_in_order() -> None:
    spec = parse_spec("variants: [fp16, int8]\nladder: [fp16@openvino, int8@openvino]").spec
    assert spec.variants == ("fp16", "int8")
    assert spec.ladder == (RungName("fp16", "openvino"), RungName("int8", "openvino"))


@pytest.mark.parametrize("path", list(DEFAULTS), ids=show_path)
def test_parse_spec_each_default_written_out_changes_nothing(path: Path) -> None:
    value = DEFAULTS[path]
    as_file = parse_spec(json.dumps(nested(path, value)))
    as_flag = parse_spec("", overrides=[f"{show_path(path)}={show_value(value)}"])
    as_variable = parse_spec("", environment={"LIGHTSHIP__" + "__".join(map(str, path)).upper(): show_value(value)})
    for loaded, origin in ((as_file, Origin.FILE), (as_flag, Origin.FLAG), (as_variable, Origin.ENVIRONMENT)):
        assert loaded.spec == Spec()
        assert [at for at, who in loaded.origins.items() if who is not Origin.DEFAULT] == [show_path(path)]
        assert loaded.origins[show_path(path)] is origin


@PROPERTY
@given(
    ttft_ms=st.floats(0.001, 600_000),
    threads=st.integers(0, 4096),
    kv_cache_size=st.integers(2**24, 2**42),
    concurrencies=st.lists(st.integers(1, 1024), min_size=1, max_size=16, unique=True),
    text=st.text(st.characters(categories=["L", "N", "P", "Zs"]), min_size=1, max_size=20),
)
def test_parse_spec_any_valid_values_survive_explain_and_back(
    ttft_ms: float, threads: int, kv_cache_size: int, concurrencies: list[int], text: str
) -> None:
    data = {
        "slo": {"ttft_ms": ttft_ms},
        "engines": {"openvino": {"threads": threads, "kv_cache_size": kv_cache_size}},
        "measurement": {"concurrencies": concurrencies, "target_concurrency": concurrencies[-1]},
        "quality": {"text": text},
    }
    spec = parse_spec(json.dumps(data, ensure_ascii=False)).spec
    shown = {
        path: value if isinstance(value, str) else show_value(value)  # a flag takes text as it is, without quotes
        for path, value in leaves(spec).items()
    }
    assert parse_spec("", overrides=[f"{show_path(path)}={value}" for path, value in shown.items()]).spec == spec
    assert all(read_yaml(show_value(value)).data == value for value in leaves(spec).values())


@PROPERTY
@given(section=st.sampled_from(SECTIONS), key=st.from_regex(r"[a-z][a-z_]{0,15}", fullmatch=True))
def test_parse_spec_any_unknown_key_is_refused_by_name_wherever_it_stands(section: Path, key: str) -> None:
    if key in keys_at(section):
        return
    path = (*section, key)
    variable = "LIGHTSHIP__" + "__".join(map(str, path)).upper()
    with pytest.raises(SpecError) as in_file:
        parse_spec(json.dumps(nested(path, 1)))
    with pytest.raises(SpecError) as in_flag:
        parse_spec("", overrides=[f"{show_path(path)}=1"])
    assert f"{show_path(path)}: unknown key {key!r}" in str(in_file.value)
    assert f"{show_path(path)}: unknown key {key!r}" in str(in_flag.value)
    if "__" not in key and not key.endswith("_"):
        with pytest.raises(SpecError) as in_environment:
            parse_spec("", environment={variable: "1"})
        assert f"{variable}: {show_path(path)}: unknown key {key!r}" in str(in_environment.value)


_ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["auto", "source"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["default", "name", "a b"]), inner),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, database=None)
@given(path=st.sampled_from([*leaf_paths(), *filter(None, SECTIONS)]), value=_ANY_VALUE)
def test_parse_spec_any_value_anywhere_is_taken_or_refused_with_its_section(path: Path, value: Any) -> None:
    told = refusal(json.dumps(nested(path, value)))
    assert told is None or (f" {path[0]}" in told and "pydantic" not in told.lower())


def refusal(text: str) -> str | None:
    """What is said about a spec that is refused; None when it is taken. Any other exception is a bug."""
    try:
        parse_spec(text)
    except SpecError as error:
        return str(error)
    return None
