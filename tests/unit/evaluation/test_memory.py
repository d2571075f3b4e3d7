"""Bits per weight by hand."""

from __future__ import annotations

import pytest

from lightship.errors import MeasurementError
from lightship.evaluation.memory import weight_bits_per_parameter


def test_weight_bits_per_parameter_counts_scales() -> None:
    # 64 weights of 4 bits and one f16 scale: 34 bytes
    assert weight_bits_per_parameter(weight_bytes=34, num_parameters=64) == 4.25


@pytest.mark.parametrize(("num_bytes", "num_parameters"), [(10, 0), (10, -1), (-1, 10)])
def test_weight_bits_per_parameter_without_parameters_is_refused(num_bytes: int, num_parameters: int) -> None:
    with pytest.raises(MeasurementError):
        weight_bits_per_parameter(weight_bytes=num_bytes, num_parameters=num_parameters)
