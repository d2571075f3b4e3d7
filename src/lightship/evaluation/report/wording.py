"""Figures as text and as HTML `<data>` elements, which keep the unrounded value for machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from html import escape

from lightship.ports.measurements import Interval, Measurement, Metric
from lightship.units import format_bytes

ABSENT = '<span class="absent" title="not measured">–</span>'


def three_digits(value: float) -> str:
    """Three significant digits, whole numbers from a hundred up.

    >>> three_digits(0.01234), three_digits(12.0), three_digits(99.98), three_digits(12345.6)
    ('0.0123', '12.0', '100', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def tick(value: float) -> str:
    """A tick label.

    >>> tick(1500.0), tick(0.25)
    ('1,500', '0.25')
    """
    return f"{value:,g}" if abs(value) < 1e6 else f"{value:,.0f}"


def dollars(value: float) -> str:
    """An amount for people, three digits.

    >>> dollars(0.01234), dollars(2.5), dollars(1234.5)
    ('$0.0123', '$2.50', '$1,234')
    """
    return f"${three_digits(value)}"


def listed(words: Sequence[str]) -> str:
    """Words as a sentence lists them.

    >>> listed(["quality", "memory", "size"])
    'quality, memory and size'
    """
    return " and ".join([", ".join(words[:-1]), *words[-1:]] if len(words) > 1 else words)


_WORDS: dict[Metric, Callable[[float], str]] = {
    Metric.BITS_PER_BYTE: "{:.4f}".format,
    Metric.KL_NATS: lambda value: f"{value:.5f}" if value < 0.01 else f"{value:.4f}",
    Metric.TOP1_AGREEMENT: "{:.1%}".format,
    Metric.SLO_ATTAINMENT: "{:.1%}".format,
    Metric.QUALITY_RECOVERY: "{:.2%}".format,
    Metric.PEAK_RSS_BYTES: format_bytes,
    Metric.PEAK_GPU_BYTES: format_bytes,
    Metric.ESTIMATED_MEMORY_BYTES: format_bytes,
    Metric.KV_BYTES_PER_TOKEN: format_bytes,
    Metric.COST_USD_PER_1M_OUTPUT_TOKENS: dollars,
    Metric.COST_USD_PER_1M_GOOD_TOKENS: dollars,
    Metric.PROMPT_PHASE_USD_PER_1M_INPUT_TOKENS: dollars,
    Metric.GENERATION_PHASE_USD_PER_1M_OUTPUT_TOKENS: dollars,
}


def format_figure(metric: Metric, value: float) -> str:
    """A figure with as many digits as people compare, without a unit unless it varies.

    >>> format_figure(Metric.DECODE_TOKENS_PER_S, 416.23), format_figure(Metric.TOP1_AGREEMENT, 0.9871)
    ('416', '98.7%')
    """
    return _WORDS.get(metric, three_digits)(value)


def data_element(value: float, text: str) -> str:
    """`text` with the unrounded value for machines."""
    return f'<data value="{value!r}">{escape(text)}</data>'


def estimate_cell(value: float, interval: Interval | None, words: Callable[[float], str]) -> str:
    """A figure with its interval beneath, both as `words` writes them."""
    return f"{data_element(value, words(value))}{_small_interval(interval, words)}"


def figure_cell(one: Measurement | None) -> str:
    """A figure with its interval beneath, or a dash."""
    if one is None:
        return ABSENT
    return estimate_cell(one.value, one.interval, partial(format_figure, one.metric))


def _small_interval(interval: Interval | None, words: Callable[[float], str]) -> str:
    if interval is None:
        return ""
    low, high = (data_element(bound, words(bound)) for bound in (interval.low, interval.high))
    between = " to " if interval.low < 0 else " – "
    return f'<small class="interval">{low}{between}{high}</small>'


def utc_time(unix_s: float) -> str:
    """Date and time for people.

    >>> utc_time(0)
    '1970-01-01 00:00 UTC'
    """
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%d %H:%M UTC")
