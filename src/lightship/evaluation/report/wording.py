"""Figures as text and as HTML `<data>` elements, which keep the unrounded value for machines."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape

from lightship.ports.measurements import Interval, Measurement, Metric
from lightship.units import format_bytes

ABSENT = '<span class="absent" title="not measured">–</span>'


def format_figure(metric: Metric, value: float) -> str:
    """A figure with as many digits as people compare, without a unit unless it varies.

    >>> format_figure(Metric.DECODE_TOKENS_PER_S, 416.23), format_figure(Metric.TOP1_AGREEMENT, 0.9871)
    ('416', '98.7%')
    """
    match metric:
        case Metric.BITS_PER_BYTE:
            return f"{value:.4f}"
        case Metric.KL_NATS:
            return f"{value:.5f}" if value < 0.01 else f"{value:.4f}"
        case Metric.TOP1_AGREEMENT | Metric.SLO_ATTAINMENT:
            return f"{value * 100:.1f}%"
        case Metric.QUALITY_RECOVERY:
            return f"{value * 100:.2f}%"
        case Metric.PEAK_RSS_BYTES:
            return format_bytes(value)
        case _:
            return three_digits(value)


def three_digits(value: float) -> str:
    """Three significant digits, whole numbers from a hundred up.

    >>> three_digits(0.01234), three_digits(12.0), three_digits(99.98), three_digits(12345.6)
    ('0.0123', '12.0', '100', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def data_element(value: float, text: str) -> str:
    """`text` with the unrounded value for machines."""
    return f'<data value="{value!r}">{escape(text)}</data>'


def figure_cell(one: Measurement | None) -> str:
    """A figure with its interval beneath, or a dash."""
    if one is None:
        return ABSENT
    value = data_element(one.value, format_figure(one.metric, one.value))
    return f"{value}{interval_note(one.metric, one.interval)}"


def interval_note(metric: Metric, interval: Interval | None) -> str:
    """The interval in small print; nothing where there is none."""
    if interval is None:
        return ""
    low, high = (data_element(bound, format_figure(metric, bound)) for bound in (interval.low, interval.high))
    return f'<small class="interval">{low} – {high}</small>'


def utc_time(unix_s: float) -> str:
    """Date and time for people.

    >>> utc_time(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
