"""When a changed configuration is read, and what becomes of a bad one.

    SIGHUP ------------------------------> read it now
    files changed, then still for a poll -> read it now
    it is good   -> applied in one step; requests under way are not touched
    it is bad    -> the last good one stays; the log says what is wrong, a metric that it happened

Files are looked at, not subscribed to: that works on every file system, through the links that Kubernetes swaps for a
mounted ConfigMap, and needs no dependency. A file is read once it has kept still for a poll, so that one which an
editor has emptied and not yet written is never taken for a configuration of defaults.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from msgspec.structs import replace
from prometheus_client import CollectorRegistry, Counter, Gauge

from lightship.errors import LightshipError
from lightship.gateway.config import GatewayConfig
from lightship.gateway.state import StateConfig
from lightship.observability import names
from lightship.ports.clock import Clock

POLL_S = 1.0

_log = logging.getLogger(__name__)


class ReloadResult(StrEnum):
    """How a reload ended."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class ReloadMetrics:
    """Counts reloads in a registry."""

    def __init__(self, registry: CollectorRegistry, *, clock: Clock) -> None:
        self._clock = clock
        self._reloads = Counter(
            names.CONFIG_RELOADS, "Reloads of the configuration.", [names.LABEL_RESULT], registry=registry
        )
        for result in ReloadResult:
            self._reloads.labels(result.value)
        text = "1 when the configuration that was read last is in use, 0 when an older one had to stay."
        self._is_successful = Gauge(names.CONFIG_LAST_RELOAD_SUCCESSFUL, text, registry=registry)
        text = "When the configuration in use was read."
        self._time = Gauge(names.CONFIG_LAST_RELOAD_TIME, text, registry=registry)
        self._is_successful.set(1)
        self._time.set(clock.unix_s())

    def note(self, result: ReloadResult) -> None:
        """Counts one reload."""
        self._reloads.labels(result.value).inc()
        self._is_successful.set(result is not ReloadResult.FAILED)
        if result is not ReloadResult.FAILED:
            self._time.set(self._clock.unix_s())


Fingerprint = tuple[tuple[int, int, int] | None, ...]


def fingerprint(files: Iterable[Path]) -> Fingerprint:
    """What changes whenever one of the files does: inode, time of change and size; None for one that is not there."""
    return tuple(_fingerprint(file) for file in files)


def _fingerprint(file: Path) -> tuple[int, int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


@dataclass
class Settling:
    """Tells when a watched value has changed and kept still since; pure.

    `seen` is the latest value, `known` the one that was acted upon.
    """

    known: Fingerprint
    seen: Fingerprint

    @classmethod
    def at(cls, value: Fingerprint) -> Settling:
        """Nothing has changed since this value."""
        return cls(value, value)

    def has_settled_anew(self, value: Fingerprint) -> bool:
        """Whether the value, seen now, is to be acted upon; it is then known."""
        is_still, self.seen = value == self.seen, value
        if is_still and value != self.known:
            self.known = value
            return True
        return False


def needs_restart(old: GatewayConfig, new: GatewayConfig) -> list[str]:
    """The settings that differ and are only read at a start, each as `setting (stays VALUE)`."""
    pairs = [
        ("gateway.listen", f"{old.host}:{old.port}", f"{new.host}:{new.port}"),
        ("gateway.workers", old.server.workers, new.server.workers),
        ("gateway.tls", old.server.tls, new.server.tls),
        ("gateway.send_timeout_s", old.server.send_timeout_s, new.server.send_timeout_s),
        ("gateway.drain_timeout_s", old.drain_timeout_s, new.drain_timeout_s),
        ("the place of its state", old.state.folder or "as it is", new.state.folder or "as it is"),
        ("gateway.state", _redis(old.state), _redis(new.state)),
        ("gateway.cache.exact", _on(old.cache), _on(new.cache)),
        ("who starts its replicas", _socket(old), _socket(new)),
        ("cluster", old.cluster, new.cluster),
    ]
    return [f"{name} (stays {_shown(before)})" for name, before, after in pairs if before != after]


def _redis(state: StateConfig) -> str:
    """Where the shared state is, without a password."""
    return state.redis_url_env or state.redis_url.rpartition("@")[2] or "no Redis"


def _socket(config: GatewayConfig) -> str:
    """The supervisor that starts the replicas; "" where there is none."""
    return "" if config.activation is None else config.activation.control_socket


def _on(section: object) -> str:
    return "off" if section is None else "on"


def with_start_settings(new: GatewayConfig, old: GatewayConfig) -> GatewayConfig:
    """The new configuration with what only a start reads as it was at the start."""
    server = replace(
        new.server, workers=old.server.workers, tls=old.server.tls, send_timeout_s=old.server.send_timeout_s
    )
    cache = new.cache if _on(new.cache) == _on(old.cache) else old.cache
    start = {"host": old.host, "port": old.port, "drain_timeout_s": old.drain_timeout_s, "state": old.state}
    activation = new.activation if _socket(new) == _socket(old) else old.activation
    return replace(new, **start, cache=cache, server=server, activation=activation, cluster=old.cluster)


def _shown(value: object) -> str:
    return "off" if value is None else str(getattr(value, "cert_file", value))


class Reloader:
    """Reads and applies configurations for as long as `run` runs.

    Args:
        current: The one in use.
        load: Reads the new one. Raises LightshipError when it is not acceptable.
        apply: Puts it to use. Raises LightshipError when it could not, and then the old one is in use.
        files: Watched, as long as there are any.
        metrics: Counts.
        clock: Time between two looks at the files.

    Concurrency: one reload at a time, in the order of the requests; those that come together are one.
    """

    def __init__(
        self,
        current: GatewayConfig,
        *,
        load: Callable[[], Awaitable[GatewayConfig]],
        apply: Callable[[GatewayConfig], Awaitable[None]],
        files: Sequence[Path],
        metrics: ReloadMetrics,
        clock: Clock,
    ) -> None:
        self.current = current
        self._load = load
        self._apply = apply
        self._files = files
        self._metrics = metrics
        self._clock = clock
        self._is_requested = asyncio.Event()

    def request(self) -> None:
        """Asks for a reload; `run` does it. Fit for a signal handler."""
        self._is_requested.set()

    async def run(self) -> None:
        """Reloads whenever it is asked for or a file has changed; ends by cancellation."""
        async with asyncio.TaskGroup() as group:
            if self._files:
                group.create_task(self._watch())
            while True:
                await self._is_requested.wait()
                self._is_requested.clear()
                await self.reload()

    async def reload(self) -> ReloadResult:
        """One reload, with what it found in the log and the metrics; never raises."""
        try:
            loaded = await self._load()
            if staying := needs_restart(self.current, loaded):
                _log.warning("these settings change at the next start only: %s", ", ".join(staying))
            new = with_start_settings(loaded, self.current)
            if new == self.current:
                _log.info("configuration read again: nothing changed")
                result = ReloadResult.UNCHANGED
            else:
                await self._apply(new)
                self.current = new
                _log.info("configuration reloaded")
                result = ReloadResult.APPLIED
        except LightshipError as error:
            _log.error("the new configuration is not used, the last good one stays: %s", error)
            result = ReloadResult.FAILED
        except Exception:  # noqa: BLE001 # a bug in a reload must not end the service of the last good configuration
            _log.exception("the new configuration is not used, the last good one stays")
            result = ReloadResult.FAILED
        self._metrics.note(result)
        return result

    async def _watch(self) -> None:
        settling = Settling.at(await self._look())
        while True:
            await self._clock.sleep(POLL_S)
            if settling.has_settled_anew(await self._look()):
                self.request()

    async def _look(self) -> Fingerprint:
        return await asyncio.to_thread(fingerprint, self._files)  # a file system may take its time
