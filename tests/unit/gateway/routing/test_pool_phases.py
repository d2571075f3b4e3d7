"""What whoever runs the replicas says of them stands above what probes find."""

from __future__ import annotations

import asyncio

from lightship.engines.remote import ProbeResult
from lightship.ports.replica_control import ReplicaPhase
from lightship.testing.fake_engine import always, stream_reply
from lightship.testing.replica_pools import fake_of, pool_of
from lightship.testing.virtual_time import run_in_virtual_time

STREAM = always(stream_reply("a"))


def test_pool_draining_replica_gets_nothing_new_although_it_answers_probes() -> None:
    async def run() -> None:
        pool = pool_of(STREAM)
        await pool.probe_all()
        pool.note_phase("r0", ReplicaPhase.DRAINING)
        assert not pool.is_up("", 0)
        await pool.probe_all()
        assert not pool.is_up("", 0)

    run_in_virtual_time(run())


def test_pool_replica_said_to_be_ready_is_used_without_a_probe() -> None:
    async def run() -> None:
        pool = pool_of(STREAM)
        fake_of(pool, "r0").probe_result = ProbeResult.UNREACHABLE
        await pool.probe_all()
        pool.note_phase("r0", ReplicaPhase.STARTING)
        pool.note_phase("r0", ReplicaPhase.READY)
        assert pool.is_up("", 0)
        await pool.probe_all()
        assert not pool.is_up("", 0), "probes count again from then on"

    run_in_virtual_time(run())


def test_pool_tells_of_every_change_of_readiness_once() -> None:
    async def run() -> None:
        pool = pool_of(STREAM)
        told = []
        pool.on_readiness = lambda: told.append(pool.is_up("", 0))
        await pool.probe_all()
        await pool.probe_all()
        pool.note_phase("r0", ReplicaPhase.SLEEPING)
        pool.note_phase("r0", ReplicaPhase.STARTING)
        pool.note_phase("r0", ReplicaPhase.READY)
        assert told == [True, False, True]

    run_in_virtual_time(run())


def test_pool_phase_of_a_replica_it_does_not_have_is_nothing() -> None:
    async def run() -> None:
        pool = pool_of(STREAM)
        pool.note_phase("other", ReplicaPhase.READY)
        await asyncio.sleep(0)
        assert [one.config.name for one in pool] == ["r0"]

    run_in_virtual_time(run())
