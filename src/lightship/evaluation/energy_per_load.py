"""Energy of each load of a performance run, and joules per output token."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from lightship.evaluation.energy import EnergyMeter, EnergyReading
from lightship.evaluation.resource_figures import ResourceFigures
from lightship.ports.measurements import Interval, Measurement, Metric
from lightship.ports.progress import Progress, Task


class EnergyPerLoad:
    """Progress that also reads the energy of each load, and passes on what it is told.

    A performance run tells its task before each load and once after the last; from one telling to the next is a load
    with its warm-up, which is as heavy as its window.

    Args:
        inner: Where progress is shown.
        meter: Reads the energy.
    """

    def __init__(self, inner: Progress, meter: EnergyMeter) -> None:
        self._inner = inner
        self._meter = meter
        self.readings: list[EnergyReading] = []

    @contextmanager
    def task(self, title: str) -> Iterator[Task]:
        """See `Progress`. Begins a new list of readings."""
        self.readings = []
        with self._inner.task(title) as task:
            yield _MeteredTask(task, self._meter, self.readings)


class _MeteredTask:
    def __init__(self, inner: Task, meter: EnergyMeter, readings: list[EnergyReading]) -> None:
        self._inner = inner
        self._meter = meter
        self._readings = readings
        self._is_running = False

    def advance(self, *, done: float, total: float | None = None, note: str | None = None) -> None:
        if self._is_running:
            self._readings.append(self._meter.stop())
        self._is_running = total is None or done < total
        if self._is_running:
            self._meter.start()
        self._inner.advance(done=done, total=total, note=note)


def energy_figures(
    figures: Iterable[Measurement], readings: Sequence[EnergyReading], concurrencies: Sequence[int]
) -> ResourceFigures:
    """Joules per output token of each load of one run: mean power over the load by output tokens per second.

    Args:
        figures: Measurements of one run of one variant.
        readings: One for each load, in the order of `concurrencies`.
        concurrencies: The run's loads.
    """
    if len(readings) != len(concurrencies):
        what = f"there are {len(readings)} readings of {len(concurrencies)} loads, so none can be told from the others"
        return ResourceFigures(notes=(f"No energy: {what}.",))
    watts = dict(zip(concurrencies, readings, strict=True))
    found, notes = [], []
    for one in figures:
        if one.metric is not Metric.DECODE_TOKENS_PER_S or one.concurrency not in watts:
            continue
        reading = watts[one.concurrency]
        if reading.mean_watts is None:
            notes.append(f"No energy: {reading.reason or 'the load took no time.'}")
        elif one.value > 0:
            found.append(_energy_measurement(one, reading, reading.mean_watts))
    return ResourceFigures(tuple(found), tuple(dict.fromkeys(notes)))


def _energy_measurement(output: Measurement, reading: EnergyReading, mean_watts: float) -> Measurement:
    """The interval is that of the rate: the energy falls with it, so bounds change places; the power has none."""
    interval = output.interval
    bounds = None
    if interval is not None and interval.low > 0:
        bounds = Interval(mean_watts / interval.high, mean_watts / interval.low, interval.level)
    return replace(
        output,
        metric=Metric.ENERGY_J_PER_OUTPUT_TOKEN,
        value=mean_watts / output.value,
        interval=bounds,
        protocol=f"energy-1/{reading.source}/{output.protocol}",
        details={"mean_watts": mean_watts, "duration_s": reading.duration_s},
    )
