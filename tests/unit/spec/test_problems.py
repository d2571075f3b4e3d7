"""What users read when a spec is wrong."""

from __future__ import annotations

import pytest

from lightship.errors import SpecError
from lightship.spec.load import parse_spec


def message(text: str, **sources: object) -> str:
    with pytest.raises(SpecError) as caught:
        parse_spec(text, **sources)  # type: ignore[arg-type]
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("slo:\n  ttfs_ms: 3", "lightship.yaml:2: slo.ttfs_ms: unknown key 'ttfs_ms'. Did you mean slo.ttft_ms?"),
        ("ttft_ms: 3", "lightship.yaml:1: ttft_ms: unknown key 'ttft_ms'. Did you mean slo.ttft_ms?"),
        (
            "slo: {zzz: 3}",
            "lightship.yaml:1: slo.zzz: unknown key 'zzz'. Valid keys here: ttft_ms, tpot_ms, attainment.",
        ),
        (
            "engines: {openvinno: {}}",
            "lightship.yaml:1: engines.openvinno: unknown key 'openvinno'. Did you mean engines.openvino?",
        ),
        (
            "slo: {ttft_ms: fast}",
            "lightship.yaml:1: slo.ttft_ms: expected a number above 0, at most 600_000, got the text 'fast'",
        ),
        ("slo: {attainment: 95}", "lightship.yaml:1: slo.attainment: expected a number above 0, at most 1, got 95"),
        ("slo: {ttft_ms: true}", "lightship.yaml:1: slo.ttft_ms: expected a number above 0, at most 600_000, got true"),
        (
            "slo:",
            "lightship.yaml:1: slo: expected a section with the keys ttft_ms, tpot_ms, attainment, got nothing (null). "
            "Remove the key to use the default.",
        ),
        (
            "engines: {openvino: {precision: int8}}",
            "lightship.yaml:1: engines.openvino.precision: expected one of auto, f32, bf16, f16, got the text 'int8'",
        ),
        (
            "engines: {openvino: {prefix_caching: 1}}",
            "lightship.yaml:1: engines.openvino.prefix_caching: expected true or false, got 1",
        ),
        (
            "engines: {openvino: {max_sequences: 1.5}}",
            "lightship.yaml:1: engines.openvino.max_sequences: expected a whole number from 1 to 65_536, got 1.5",
        ),
        ("model: {name: 5}", 'lightship.yaml:1: model.name: expected text like "storyteller" or "org/name", got 5'),
        (
            "variants: int8",
            "lightship.yaml:1: variants: expected auto or a list of 1 to 64 entries, "
            'each text like "int8" or "fp16", got the text \'int8\'',
        ),
        (
            "variants:\n- int8\n- 4",
            'lightship.yaml:3: variants[1]: expected text like "int8" or "fp16", got 4',
        ),
        ("variants: [int8, int8]", "lightship.yaml:1: variants: int8 is listed twice"),
        ("ladder: [int8]", "lightship.yaml:1: ladder[0]: expected variant@engine like int8@openvino, got 'int8'"),
        (
            "variants: [int8]\nladder: [int4@openvino]",
            "lightship.yaml:2: ladder: int4@openvino names no entry of variants (int8)",
        ),
        ("ladder: [int4@vllm]", "lightship.yaml:1: ladder: int4@vllm names no entry of engines (openvino)"),
        (
            "model: {source: hf:org/name}",
            "lightship.yaml:1: model.source: 'hf:org/name' names no revision. "
            "Pin one, best a commit: hf:org/name@COMMIT (hf:org/name@main follows the newest)",
        ),
        (
            "gateway: {listen: '8080'}",
            "lightship.yaml:1: gateway.listen: expected host:port like 127.0.0.1:8080 or [::1]:8080, got '8080'",
        ),
        (
            "gateway: {timeouts: {first_token_s: 700}}",
            "lightship.yaml:1: gateway.timeouts.total_s: 600 is less than first_token_s (700)",
        ),
        (
            "measurement: {concurrencies: [1, 4]}",
            "lightship.yaml:1: measurement.target_concurrency: 32 is not one of measurement.concurrencies [1, 4]; "
            "add it, or choose one",
        ),
        (
            "gateway: {limits: {'A B': {}}}",
            "lightship.yaml:1: gateway.limits.A B: 'A B' is not a valid name. Use lower-case letters, digits, _ and -.",
        ),
        (
            "upstreams: [{base_url: 'https://example.com'}]",
            'lightship.yaml:1: upstreams[0].name: missing; expected text like "default" or "cloud"',
        ),
        ("- slo", "lightship.yaml:1: a spec is a mapping from keys to values. "
         "Write sections such as `model:`; an empty file means all defaults."),
        ("slo: {}\nslo: {}", "lightship.yaml:2: the key 'slo' is there twice. "
         "Keep one of the two; the first is in line 1."),
    ],
)  # fmt: skip
def test_parse_spec_wrong_text_says_where_what_and_what_to_do(text: str, expected: str) -> None:
    assert message(text) == expected


def test_parse_spec_size_out_of_bounds_is_refused_with_the_bounds() -> None:
    told = message("gateway: {body_limit: 2 GB}")
    assert "a whole number from 1_024 to 268_435_456, got the text '2 GB'" in told
    assert "'3 bananas' is not a number with one of the units" in message("gateway: {body_limit: 3 bananas}")
    assert "too many for a number with a unit" in message(f"gateway: {{body_limit: '{'9' * 400}'}}")


def test_parse_spec_mistake_inside_an_unsupported_setting_tells_both() -> None:
    assert message("gateway: {cache: {semantic: {mode: shado}}}").splitlines() == [
        "lightship.yaml: 2 problems",
        "  lightship.yaml:1: gateway.cache.semantic.mode: expected one of shadow, serve, got the text 'shado'",
        "  lightship.yaml:1: gateway.cache.semantic: this section is not supported yet. Remove it.",
    ]


def test_parse_spec_wrong_environment_and_flags_are_named_as_given() -> None:
    told = message(
        "slo: {tpot_ms: 0}",
        environment={
            "LIGHTSHIP__SLO__TTFT_MS": "soon",
            "LIGHTSHIP__SLO__": "1",
            "LIGHTSHIP__REPLICAS__MIN": "[",
            "lightship__model__name": "a",
            "LIGHTSHIP__MODEL__NAME": "b",
        },
        overrides=["slo.attainment", "slo.attainment=2", "upstreams.0.name=cloud"],
    )
    lines = told.splitlines()
    assert lines[0] == "lightship.yaml: 8 problems"
    for start in (
        "lightship.yaml:1: slo.tpot_ms: expected a number above 0",
        "LIGHTSHIP__SLO__TTFT_MS: slo.ttft_ms: expected a number above 0",
        "LIGHTSHIP__SLO__: slo.: unknown key ''",
        "LIGHTSHIP__REPLICAS__MIN: replicas.min: expected a whole number from 0 to 1_024, got text that is not YAML",
        "lightship__model__name: model.name: set twice, by LIGHTSHIP__MODEL__NAME and lightship__model__name",
        "--set slo.attainment: expected PATH=VALUE. For example slo.ttft_ms=300.",
        "--set slo.attainment: slo.attainment: expected a number above 0, at most 1, got 2",
        "--set upstreams.0.name: upstreams.0: unknown key '0'. upstreams has no keys.",
    ):
        assert sum(line.strip().startswith(start) for line in lines) == 1, start


def test_parse_spec_variable_inside_a_value_that_is_no_section_blames_the_file() -> None:
    told = message("slo: 5", environment={"LIGHTSHIP__SLO__TTFT_MS": "5"})
    assert told.startswith("lightship.yaml:1: slo: expected a section with the keys ttft_ms")


def test_parse_spec_all_problems_of_a_file_are_told_at_once() -> None:
    told = message(
        "model: {nam: a}\n"
        "slo: {tpot_ms: 0}\n"
        "upstreams: [{name: cloud, base_url: 'https://example.com'}]\n"
        "routing: {spill: {to: clod}}\n"
        "gateway: {cache: {semantic: {}}}\n"
        "measurement: {concurrencies: [2]}\n"
    )
    assert [line.split(": ")[0:2] for line in told.splitlines()[1:]] == [
        ["  lightship.yaml:1", "model.nam"],
        ["  lightship.yaml:2", "slo.tpot_ms"],
        ["  lightship.yaml:4", "routing"],
        ["  lightship.yaml:6", "measurement.target_concurrency"],
        ["  lightship.yaml:5", "gateway.cache.semantic"],
    ]
