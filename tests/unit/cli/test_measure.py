from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lightship.artifacts.machine import Machine
from lightship.artifacts.measurements import MeasurementStore
from lightship.artifacts.store import VariantDescription
from lightship.cli.measure import Measurer, choose_protocols
from lightship.cli.prepare import BuiltVariants, Surroundings
from lightship.cli.variant_worker import startup_budget_s
from lightship.errors import MeasurementError
from lightship.evaluation.quality.builtin_texts import builtin_texts
from lightship.ports.clock import SystemClock
from lightship.ports.measurements import Measurement, Metric
from lightship.ports.progress import SilentProgress
from lightship.ports.variants import FileEntry, Recipe, Variant, WeightFormat
from lightship.spec.document import Spec
from lightship.spec.load import parse_spec

pytest.importorskip("openvino_genai", reason="NOT TESTED: the extra `local` is not installed")

HERE = Machine("Xeon", "x86_64", ("avx2",), 2, 8)
ELSEWHERE = Machine("EPYC", "x86_64", ("avx2",), 2, 8)
# Written down again, not taken from the code: what a user must find in a report.
OF_EVERY_VARIANT = {
    ("startup_to_first_token_s", 0),
    ("peak_rss_bytes", 0),
    ("bits_per_byte", 0),
    ("perplexity", 0),
    *((metric, users) for metric in ("decode_tokens_per_s", "goodput_requests_per_s") for users in (1, 8, 32)),
}
OF_ALL_BUT_THE_REFERENCE = {("quality_recovery", 0), ("kl_nats_per_token", 0), ("top1_agreement", 0)}


def spec(*overrides: str) -> Spec:
    return parse_spec("", overrides=overrides).spec


@pytest.fixture
def around(tmp_path: Path) -> Surroundings:
    return Surroundings(home=tmp_path, clock=SystemClock(), progress=SilentProgress())


def make_variant(around: Surroundings, name: str, *, context_length: int = 1024) -> Variant:
    def describe(_: Path) -> VariantDescription:
        return VariantDescription(
            name=name,
            model_name="fairytales",
            weight_format=WeightFormat.OPENVINO_IR,
            parent_digest="sha256:parent",
            recipe=Recipe(name, ()),
            build_key=f"{name}-{context_length}",
            tool_versions={},
            weight_bytes=4,
            num_parameters=1,
            context_length=context_length,
            source="s",
        )

    def write(folder: Path) -> None:
        (folder / "openvino_model.bin").write_bytes(f"{name}-{context_length}".encode())

    return around.store.build(f"{name}-{context_length}", describe, write)


@dataclass(frozen=True)
class Bench:
    """A measurer, its variants and the store it reads."""

    measurer: Measurer
    store: MeasurementStore
    fp16: Variant
    int8: Variant

    def figures(self, variant: Variant, *, without: Metric | None = None) -> list[Measurement]:
        """Everything the spec wants of the variant, hand-made."""
        is_reference = variant == self.fp16
        return [
            Measurement(
                metric=metric,
                value=1.0,
                variant_digest=variant.manifest.digest,
                target=self.measurer.target(variant),
                protocol=protocol,
                num_items=1,
                interval=None,
                measured_unix_s=1.0,
                machine=HERE.fingerprint,
                concurrency=concurrency,
                reference_digest=None
                if is_reference or metric.value not in {m for m, _ in OF_ALL_BUT_THE_REFERENCE}
                else self.fp16.manifest.digest,
            )
            for metric, concurrency, protocol in self.measurer.protocols.wanted(is_reference=variant == self.fp16)
            if metric is not without
        ]


def make_bench(around: Surroundings, *overrides: str) -> Bench:
    fp16, int8 = make_variant(around, "fp16"), make_variant(around, "int8")
    store = MeasurementStore(around.home / "measurements.sqlite")
    measurer = Measurer(spec(*overrides), BuiltVariants((fp16, int8), fp16), store, HERE, around)
    return Bench(measurer, store, fp16, int8)


@pytest.fixture
def bench(around: Surroundings) -> Bench:
    return make_bench(around)


def kinds(wanted: Iterable[tuple[Metric, int, str]]) -> set[tuple[str, int]]:
    return {(metric.value, concurrency) for metric, concurrency, _ in wanted}


def test_wanted_reference_has_no_paired_figures_and_others_have(bench: Bench) -> None:
    wanted = bench.measurer.protocols.wanted
    assert kinds(wanted(is_reference=True)) == OF_EVERY_VARIANT
    assert kinds(wanted(is_reference=False)) == OF_EVERY_VARIANT | OF_ALL_BUT_THE_REFERENCE


def test_wanted_goodput_names_the_slo_and_tokens_do_not(bench: Bench, around: Surroundings) -> None:
    def names(one: Bench, metric: Metric) -> set[str]:
        return {name for found, _, name in one.measurer.protocols.wanted(is_reference=False) if found is metric}

    strict = make_bench(around, "slo.ttft_ms=100")
    assert names(strict, Metric.GOODPUT_REQUESTS_PER_S) != names(bench, Metric.GOODPUT_REQUESTS_PER_S)
    assert names(strict, Metric.DECODE_TOKENS_PER_S) == names(bench, Metric.DECODE_TOKENS_PER_S)


def test_choose_protocols_window_leaves_the_context_one_token(around: Surroundings) -> None:
    short = make_variant(around, "fp16", context_length=512)
    assert choose_protocols(spec(), short).quality.window_tokens == 511
    long = make_variant(around, "fp16", context_length=131072)
    assert choose_protocols(spec(), long).quality.window_tokens == 1023


def test_choose_protocols_few_texts_are_all_scored(around: Surroundings, tmp_path: Path) -> None:
    texts = tmp_path / "three.txt"
    texts.write_text("One tale.\n\nAnother tale.\n\nA third.\n")
    variant = make_variant(around, "fp16")
    chosen = choose_protocols(spec(f"quality.text={texts}"), variant)
    assert (chosen.quality.num_documents, chosen.texts.name) == (3, "three")
    assert choose_protocols(spec(), variant).quality.num_documents <= len(builtin_texts().documents)


def test_choose_protocols_missing_texts_are_named(around: Surroundings) -> None:
    with pytest.raises(MeasurementError, match=r"nowhere\.jsonl"):
        choose_protocols(spec("quality.text=./nowhere.jsonl"), make_variant(around, "fp16"))


def test_is_measured_every_figure_stored_is_enough_for_a_variant(bench: Bench) -> None:
    assert not bench.measurer.is_measured(bench.int8)
    bench.store.append(bench.figures(bench.int8))
    assert bench.measurer.is_measured(bench.int8)
    assert not bench.measurer.is_measured(bench.fp16)


@pytest.mark.parametrize("metric", [Metric.STARTUP_S, Metric.GOODPUT_REQUESTS_PER_S, Metric.KL_NATS])
def test_is_measured_one_figure_lacking_is_not_enough(bench: Bench, metric: Metric) -> None:
    bench.store.append(bench.figures(bench.int8, without=metric))
    assert not bench.measurer.is_measured(bench.int8)


def test_is_measured_reference_without_its_scores_is_measured_again(bench: Bench, tmp_path: Path) -> None:
    """The paired figures of other variants are made from these scores; the figures alone do not bring them back."""
    bench.store.append(bench.figures(bench.fp16))
    assert not bench.measurer.is_measured(bench.fp16)
    path = bench.measurer._scores_path()
    assert path.parent == tmp_path / "scores"
    path.parent.mkdir()
    path.write_bytes(b"")
    assert bench.measurer.is_measured(bench.fp16)


def test_known_figures_of_another_machine_reference_target_or_protocol_do_not_count(bench: Bench) -> None:
    figures = bench.figures(bench.int8)
    recovery = next(one for one in figures if one.metric is Metric.QUALITY_RECOVERY)
    others = [replace(one, machine=ELSEWHERE.fingerprint) for one in figures]
    others.append(replace(recovery, reference_digest="sha256:another"))
    others.append(replace(recovery, target=replace(recovery.target, num_threads=64)))
    others.append(replace(recovery, protocol="bits-per-byte-recovery/echo/window=7"))
    bench.store.append(others)
    assert bench.measurer.known(bench.int8) == []
    bench.store.append(figures)
    assert bench.measurer.known(bench.int8) == figures


def test_known_spec_with_other_engine_settings_finds_nothing(bench: Bench, around: Surroundings) -> None:
    bench.store.append(bench.figures(bench.int8))
    precise = make_bench(around, "engines.openvino.precision=f32")
    assert precise.measurer.known(precise.int8) == []


def test_known_latencies_of_the_same_load_come_along_but_are_not_required(bench: Bench) -> None:
    figures = bench.figures(bench.int8)
    speed = next(one for one in figures if one.metric is Metric.DECODE_TOKENS_PER_S)
    latency = replace(speed, metric=Metric.TTFT_MS)
    of_another_load = [replace(latency, concurrency=64), replace(latency, protocol="closed-loop-1/quick/older")]
    bench.store.append([*figures, latency, *of_another_load])
    assert bench.measurer.known(bench.int8) == [*figures, latency]
    assert bench.measurer.is_measured(bench.int8)


def test_known_free_length_figures_count_as_the_protocol_they_are_a_form_of(bench: Bench) -> None:
    loads = {Metric.DECODE_TOKENS_PER_S, Metric.GOODPUT_REQUESTS_PER_S}
    figures = [
        replace(one, protocol=f"{one.protocol}/free-length") if one.metric in loads else one
        for one in bench.figures(bench.int8)
    ]
    bench.store.append(figures)
    assert bench.measurer.is_measured(bench.int8)


def test_startup_budget_grows_with_the_bytes_to_load(around: Surroundings) -> None:
    variant = make_variant(around, "fp16")
    one_gigabyte = replace(variant.manifest, files=(FileEntry("openvino_model.bin", 10**9, "x"),))
    assert startup_budget_s(Variant(one_gigabyte, variant.folder)) == 80.0  # a minute, and 20 s at 50 MB/s
    assert startup_budget_s(variant) == pytest.approx(60.0, abs=0.001)
