"""A short run of benchmarks/interval_coverage.py: no interval is grossly narrower than it says."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from lightship.evaluation.statistics.shares import wilson_interval
from lightship.ports.measurements import Interval

pytestmark = pytest.mark.slow

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks" / "interval_coverage.py"


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    spec = importlib.util.spec_from_file_location("interval_coverage", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_interval_coverage_no_kind_is_short_beyond_its_tolerance(benchmark: ModuleType) -> None:
    counted = benchmark.coverages_of(benchmark.counted_scenarios(), num_studies=2000)
    resampled = benchmark.coverages_of(benchmark.resampled_scenarios(200), num_studies=100)
    coverages = [*counted, *resampled]
    assert {one.kind for one in coverages} == set(benchmark.TOLERANCES)
    assert [one for one in coverages if one.is_short] == []


def test_interval_coverage_a_narrow_interval_is_found_out(benchmark: ModuleType) -> None:
    # one at 80 % that is sold as an exact one at 90 %
    def draw(generator: np.random.Generator, seed: int) -> tuple[Interval, float]:
        del seed
        return wilson_interval(int(generator.binomial(40, 0.3)), 40, confidence=0.8), 0.3

    coverage = benchmark.coverage_of("clopper-pearson", "n=40", draw, num_studies=1500, seed=0)
    assert coverage.covered == pytest.approx(0.8, abs=0.04)
    assert coverage.is_short
