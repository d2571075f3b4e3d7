"""Estimates with intervals, paired tests, corrections and sample sizes; pure, numpy only."""

from lightship.errors import MeasurementError

try:
    import numpy as numpy
except ImportError as error:  # pragma: no cover - shown by a test in a process without numpy
    raise MeasurementError(
        "measuring needs numpy, which is not installed", hint="Install it with: pip install 'lightship[local]'"
    ) from error
