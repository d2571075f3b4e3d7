"""Bits of weight files per parameter. Pure. What serving takes is estimated by `planning`, and peaks are measured."""

from __future__ import annotations

from lightship.errors import MeasurementError


def weight_bits_per_parameter(*, weight_bytes: int, num_parameters: int) -> float:
    """Bits of the weight files per parameter: scales, zero points and everything else in them included.

    Raises: MeasurementError: no parameters are known.

    >>> weight_bits_per_parameter(weight_bytes=1_000, num_parameters=1_600)
    5.0
    """
    if num_parameters < 1 or weight_bytes < 0:
        raise MeasurementError(f"no bits per weight can be told from {weight_bytes} bytes and {num_parameters} weights")
    return 8 * weight_bytes / num_parameters
