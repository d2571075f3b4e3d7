from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from lightship.errors import UsageError
from lightship.gateway.activation.config import ActivationConfig
from lightship.gateway.cache.config import CacheConfig
from lightship.gateway.cluster.config import ClusterConfig
from lightship.gateway.config import GatewayConfig, ReplicaConfig
from lightship.gateway.operation.reload import (
    Reloader,
    ReloadMetrics,
    ReloadResult,
    Settling,
    fingerprint,
    needs_restart,
    with_start_settings,
)
from lightship.gateway.server_config import ServerConfig, TlsConfig
from lightship.gateway.state import StateConfig
from lightship.testing.virtual_time import LoopClock

REPLICA = ReplicaConfig(name="r", base_url="http://127.0.0.1:9", model_name="m", variant_name="v")
CLUSTER = ClusterConfig(pools=(), scales=False)
CONFIG = GatewayConfig(model_name="m", replicas=(REPLICA,))
A, B = ((1, 1, 1),), ((2, 2, 2),)


@dataclass
class Running:
    """A reloader, what it reads next, and what it has put to use."""

    reads: GatewayConfig | Exception = CONFIG
    refusal: Exception | None = None
    used: list[GatewayConfig] = field(default_factory=list)
    registry: CollectorRegistry = field(default_factory=CollectorRegistry)

    async def load(self) -> GatewayConfig:
        if isinstance(self.reads, Exception):
            raise self.reads
        return self.reads

    async def apply(self, config: GatewayConfig) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.used.append(config)

    def reloader(self, *files: Path) -> Reloader:
        clock = LoopClock()
        metrics = ReloadMetrics(self.registry, clock=clock)
        return Reloader(CONFIG, load=self.load, apply=self.apply, files=files, metrics=metrics, clock=clock)

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(name, labels)


def reload_once(running: Running) -> tuple[Reloader, ReloadResult]:
    async def run() -> tuple[Reloader, ReloadResult]:
        reloader = running.reloader()
        return reloader, await reloader.reload()

    return asyncio.run(run())


def test_reload_good_configuration_is_applied_and_counted() -> None:
    new = replace(CONFIG, max_attempts=5)
    running = Running(reads=new)
    reloader, result = reload_once(running)
    assert (result, running.used, reloader.current) == (ReloadResult.APPLIED, [new], new)
    assert running.value("lightship_config_reloads_total", result="applied") == 1
    assert running.value("lightship_config_last_reload_successful") == 1


def test_reload_same_configuration_touches_nothing() -> None:
    running = Running()
    assert reload_once(running)[1] is ReloadResult.UNCHANGED
    assert running.used == []


@pytest.mark.parametrize(
    ("reads", "refusal"),
    [
        (UsageError("replicas: none", where="c.json"), None),
        (RuntimeError("a bug"), None),
        (replace(CONFIG, max_attempts=5), UsageError("the key is not set")),
    ],
    ids=["bad file", "bug", "cannot be applied"],
)
def test_reload_failure_keeps_the_last_good_one_and_says_so(
    reads: GatewayConfig | Exception, refusal: Exception | None, caplog: pytest.LogCaptureFixture
) -> None:
    running = Running(reads=reads, refusal=refusal)
    reloader, result = reload_once(running)
    assert (result, reloader.current, running.used) == (ReloadResult.FAILED, CONFIG, [])
    assert "the last good one stays" in caplog.text
    assert str(refusal or reads) in caplog.text or "max_attempts" in repr(reads)
    assert running.value("lightship_config_reloads_total", result="failed") == 1
    assert running.value("lightship_config_last_reload_successful") == 0


def test_reload_after_a_failure_is_successful_again() -> None:
    async def run() -> None:
        running = Running(reads=UsageError("bad"))
        reloader = running.reloader()
        await reloader.reload()
        running.reads = CONFIG
        assert await reloader.reload() is ReloadResult.UNCHANGED
        assert running.value("lightship_config_last_reload_successful") == 1

    asyncio.run(run())


def test_reload_what_only_a_start_reads_stays_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    running = Running(reads=replace(CONFIG, port=1, max_attempts=5))
    reloader, result = reload_once(running)
    assert result is ReloadResult.APPLIED
    assert (reloader.current.port, reloader.current.max_attempts) == (CONFIG.port, 5)
    assert "gateway.listen (stays 127.0.0.1:8080)" in caplog.text


@pytest.mark.parametrize(
    ("new", "told"),
    [
        (replace(CONFIG, host="::1"), ["gateway.listen"]),
        (replace(CONFIG, server=ServerConfig(workers=3)), ["gateway.workers"]),
        (replace(CONFIG, server=ServerConfig(tls=TlsConfig(cert_file="c", key_file="k"))), ["gateway.tls"]),
        (replace(CONFIG, server=ServerConfig(send_timeout_s=1)), ["gateway.send_timeout_s"]),
        (replace(CONFIG, drain_timeout_s=1), ["gateway.drain_timeout_s"]),
        (replace(CONFIG, state=StateConfig(folder="/s")), ["the place of its state"]),
        (replace(CONFIG, cache=CacheConfig()), ["gateway.cache.exact"]),
        (replace(CONFIG, activation=ActivationConfig(control_socket="/s")), ["who starts its replicas"]),
        (replace(CONFIG, cluster=CLUSTER), ["cluster"]),
        (replace(CONFIG, model_name="n"), []),
    ],
)
def test_needs_restart_names_each_setting_and_each_stays(new: GatewayConfig, told: list[str]) -> None:
    found = needs_restart(CONFIG, new)
    assert [line.partition(" (stays")[0] for line in found] == told
    assert needs_restart(CONFIG, with_start_settings(new, CONFIG)) == []
    assert (with_start_settings(new, CONFIG) == CONFIG) is bool(told)


def test_settling_change_counts_once_it_has_kept_still() -> None:
    settling = Settling.at(A)
    assert [settling.has_settled_anew(value) for value in (A, B, A, B, B, B)] == [False] * 4 + [True, False]


def test_settling_change_and_back_is_none() -> None:
    settling = Settling.at(A)
    assert [settling.has_settled_anew(value) for value in (B, A, A)] == [False] * 3


def test_fingerprint_changes_with_content_with_another_file_and_with_none(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    seen = [fingerprint([path])]
    path.write_text("one")
    seen.append(fingerprint([path]))
    path.write_text("three")
    seen.append(fingerprint([path]))
    (tmp_path / "other").write_text("other")
    (tmp_path / "other").replace(path)
    seen.append(fingerprint([path]))
    assert len(set(seen)) == 4
    assert seen[0] == (None,)
    assert fingerprint([path]) == seen[-1]
