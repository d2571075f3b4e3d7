"""Load on a real gateway while replicas are killed, frozen, broken and restarted and it is reloaded; exit 1 on a loss.

    python benchmarks/chaos.py [--minutes 10] [--rate 40] [--seed 0] [--json FILE] [--logs FOLDER]

Three simulated engines with real HTTP servers, a Redis server (where it is installed), and one gateway process with
keys, limits and budgets counted in that server. Every second or so something happens, never to all three engines at a
time:

    kill       SIGKILL, started again a few seconds later
    freeze     SIGSTOP for a few seconds: connections open, nothing answers
    hang       the same for longer than anybody waits
    restart    SIGTERM, which drains, then started again
    faults     a share of answers with status 500 or 503, slow first bytes, resets, broken and trickling streams
    redis      SIGKILL, started again empty
    reload     SIGHUP with another valid configuration, or with an invalid one

Clients stream, or do not, and some leave in the middle. Every request has an id of its own, under which the gateway's
access log must have one line, whose outcome must be what the client saw. A request has begun for its client with the
first token of a stream, or the head of a whole answer: one that fails before that is lost, and there must be none.
Those that break later are told so, and counted. At the end nothing may be left: not in the gateway's counters, not in
Redis, and no error in its log.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from chaos_system import MODEL, NUM_REPLICAS, Replica, System, running_system, until_ready

FAULTS: tuple[dict[str, Any], ...] = (
    {"kind": "status", "status": 500, "share": 0.7},
    {"kind": "status", "status": 503, "share": 0.7},
    {"kind": "slow_first_byte", "delay_s": 1.0, "share": 0.5},
    {"kind": "reset", "after_events": 0, "share": 0.7},
    {"kind": "truncate", "after_events": 3, "share": 0.3},
    {"kind": "error_event", "after_events": 2, "share": 0.3},
    {"kind": "trickle", "delay_s": 0.2, "share": 0.5},
)
# What the gateway may have counted for what a client saw. One that left cannot know.
AGREES = {
    "answered": {"served", "degraded"},
    "broken": {"failed"},
    "refused": {"rejected", "evicted"},
    "lost": {"failed", "rejected", "evicted", "cancelled"},
}
IN_FLIGHT = (
    "lightship_requests_in_flight",
    "lightship_requests_queued",
    "lightship_rung_requests",
    "lightship_device_load",
    "lightship_replica_work",
)
# After the last request: the gateway notices who left, and gives back what it held in Redis within a second.
SETTLE_S = 8.0


@dataclass
class Seen:
    """What clients saw, by request id, and what happened meanwhile."""

    by_id: dict[str, str] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)
    actions: Counter[str] = field(default_factory=Counter)
    num_sent: int = 0


async def send(session: aiohttp.ClientSession, system: System, rng: random.Random, seen: Seen) -> None:
    """One client: streams or not, stays or leaves."""
    is_streaming, leaves = rng.random() < 0.8, rng.random() < 0.08
    prompt = f"{rng.random()} " * rng.randint(1, 60)
    body = {"model": MODEL, "prompt": prompt, "max_tokens": rng.randint(4, 60), "stream": is_streaming}
    seen.num_sent += 1
    name = f"chaos-{seen.num_sent}"
    headers = {"x-request-id": name, "authorization": f"Bearer {rng.choice(system.keys)}"}
    leave_after_s = rng.random() * 0.3 if leaves else None
    began_s = time.monotonic()
    try:
        async with asyncio.timeout(leave_after_s):
            kind, words = await ask(session, f"{system.url}/v1/completions", body, headers)
    except TimeoutError:
        kind, words = ("left", "") if leaves else ("lost", "no end within the client's time limit")
    seen.by_id[name] = kind
    if kind == "lost":
        seen.lost.append(f"{name} after {time.monotonic() - began_s:.2f} s: {words}")


async def ask(
    session: aiohttp.ClientSession, url: str, body: dict[str, Any], headers: dict[str, str]
) -> tuple[str, str]:
    """What became of one request, and what there is to say about it."""
    content, has_begun = b"", False
    try:
        async with session.post(url, json=body, headers=headers) as reply:
            has_begun = reply.status == 200 and not body["stream"]
            async for chunk in reply.content.iter_any():
                content += chunk
                has_begun = has_begun or (reply.status == 200 and b'"choices"' in content)
            if reply.status == 503 and reply.headers.get("x-reject-reason") in {"saturated", "deadline", "queue-full"}:
                return "refused", ""
            is_whole = content.endswith(b"data: [DONE]\n\n") if body["stream"] else True
            if reply.status == 200 and is_whole:
                return "answered", ""
            return ("broken" if has_begun else "lost"), f"{reply.status} {content[-300:]!r}"
    except aiohttp.ClientError as error:
        return ("broken" if has_begun else "lost"), f"{type(error).__name__}: {error}"


async def hurt(replicas: list[Replica], session: aiohttp.ClientSession, rng: random.Random, seen: Seen) -> None:
    """Something happens to one replica; it is well again when this returns."""
    replica = rng.choice([one for one in replicas if not one.is_hurt])
    replica.is_hurt = True
    action = rng.choice(["kill", "freeze", "hang", "restart", "faults", "faults"])
    seen.actions[action] += 1
    if action in {"kill", "restart"}:
        await replica.stop(signal.SIGKILL if action == "kill" else signal.SIGTERM)
        await asyncio.sleep(rng.uniform(0.5, 3.0))
        await replica.start()
    elif action in {"freeze", "hang"}:
        replica.signal(signal.SIGSTOP)
        await asyncio.sleep(rng.uniform(1.0, 5.0) if action == "freeze" else rng.uniform(12.0, 16.0))
        replica.signal(signal.SIGCONT)
    else:
        rule = rng.choice(FAULTS)
        seen.actions[f"faults: {rule['kind']} {rule.get('status', '')}".strip()] += 1
        await replica.set_faults(session, {"rules": [rule], "seed": rng.randrange(1000)})
        await asyncio.sleep(rng.uniform(2.0, 5.0))
        await replica.set_faults(session, {})
    await until_ready(replica.url)
    await asyncio.sleep(2.5)  # the gateway's probes see it, and its breaker lets it in again
    replica.is_hurt = False


async def chaos(system: System, rng: random.Random, seen: Seen) -> None:
    """Hurts one thing after the other until it is cancelled."""
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(1_000_000):
            await asyncio.sleep(rng.uniform(0.5, 2.5))
            if sum(one.is_hurt for one in system.replicas) < NUM_REPLICAS - 1:
                group.create_task(hurt(system.replicas, session, rng, seen))
            if number % 5 == 2:
                is_valid = number % 10 == 2
                system.reload(number if is_valid else None)
                seen.actions["reload" if is_valid else "reload of an invalid file"] += 1
            if number % 9 == 4 and system.redis.url:
                await system.redis.kill()
                seen.actions["redis killed"] += 1
                await asyncio.sleep(rng.uniform(0.5, 2.0))
                await system.redis.start()


async def load(system: System, rng: random.Random, seen: Seen, *, minutes: float, rate: float) -> None:
    """Requests at random moments, whatever happens meanwhile, until all are over."""
    hurting = asyncio.create_task(chaos(system, random.Random(rng.random()), seen))
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    began_s = time.monotonic()
    next_s, end_s, told_s = began_s, began_s + minutes * 60, began_s + 60
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=90)) as session:
        async with asyncio.TaskGroup() as group:
            while next_s < end_s:
                await asyncio.sleep(max(0.0, next_s - time.monotonic()))
                group.create_task(send(session, system, rng, seen))
                next_s += rng.expovariate(rate)
                if hurting.done():
                    hurting.result()
                if time.monotonic() > told_s:
                    told_s += 60
                    print(f"{time.monotonic() - began_s:.0f} s: {Counter(seen.by_id.values())}", flush=True)
            hurting.cancel()
        await asyncio.wait([hurting])


def compare(seen: Seen, access_log: Path) -> tuple[Counter[str], list[str]]:
    """The gateway's outcomes by its access log, and every request whose outcome is not one or not what was seen."""
    logged: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for text in access_log.read_text("utf-8").splitlines():
        line = json.loads(text)
        logged[line["request_id"]].append(line)
    problems = [f"{name}: logged, and never sent" for name in logged if name not in seen.by_id]
    for name, kind in seen.by_id.items():
        lines = logged.get(name, [])
        if kind == "left" and len(lines) <= 1:
            continue  # it may have left before its request was there, and cannot know what became of it
        if len(lines) != 1:
            problems.append(f"{name}: the client saw {kind!r}, the gateway {len(lines)} outcomes")
        elif lines[0]["outcome"] not in AGREES.get(kind, set()):
            problems.append(f"{name}: the client saw {kind!r}, the gateway {lines[0]}")
    seen.lost = [f"{words}; the gateway: {logged.get(words.partition(' ')[0])}" for words in seen.lost]
    return Counter(line["outcome"] for lines in logged.values() for line in lines), problems


async def settled(system: System) -> tuple[dict[str, float], dict[str, float]]:
    """The gateway's samples, and what is not zero of what must be, as soon as nothing is or after `SETTLE_S`."""
    end_s = time.monotonic() + SETTLE_S
    while True:
        samples = await system.metrics()
        left = {name: value for name, value in samples.items() if name.startswith(IN_FLIGHT) and abs(value) > 1e-6}
        left |= {f"Redis: {name}": value for name, value in (await system.redis.held()).items() if value}
        if not left or time.monotonic() > end_s:
            return samples, left
        await asyncio.sleep(0.5)


async def run(*, minutes: float, rate: float, seed: int, logs: Path | None) -> dict[str, Any]:
    """Load and chaos; what was seen, what the gateway counted, and what is left of it."""
    rng, seen = random.Random(seed), Seen()
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        try:
            async with running_system(folder) as system:
                await load(system, rng, seen, minutes=minutes, rate=rate)
                await system.redis.start()
                samples, left = await settled(system)
                exit_code = await system.stop_gateway()
                outcomes, problems = compare(seen, system.access_log)
                log = system.gateway_log.read_text("utf-8", "replace")
                has_redis = bool(system.redis.url)
        finally:
            if logs is not None:
                shutil.copytree(folder, logs, dirs_exist_ok=True)
    counted = Counter[str]()
    for sample, value in samples.items():
        if sample.startswith("lightship_requests_total"):
            counted[sample.partition('outcome="')[2].partition('"')[0]] += round(value)
    return {
        "minutes": minutes,
        "rate": rate,
        "seed": seed,
        "has_redis": has_redis,
        "sent": seen.num_sent,
        "seen": dict(Counter(seen.by_id.values())),
        "counted": dict(counted),
        "logged": dict(outcomes),
        "never_arrived": seen.num_sent - sum(outcomes.values()),
        "problems": problems,
        "lost": seen.lost,
        "actions": dict(seen.actions),
        "left": left,
        "retried": sum(v for n, v in samples.items() if n.startswith("lightship_attempts_total")) - seen.num_sent,
        "exit_code": exit_code,
        "log_errors": [line for line in log.splitlines() if "Traceback" in line or "was never retrieved" in line],
    }


def checks_of(found: dict[str, Any]) -> list[tuple[bool, str]]:
    """Each thing that must hold, and whether it does."""
    counted = sum(found["counted"].values())
    is_one_each = found["counted"] == found["logged"] and not found["problems"]
    left = found["left"] or "nothing"
    return [
        (not found["lost"], f"{len(found['lost'])} requests lost before they had begun (0)"),
        (
            is_one_each,
            f"one outcome for each of {counted} requests ({found['never_arrived']} left before theirs came), "
            f"{len(found['problems'])} not as its client saw (0)",
        ),
        (not found["left"], f"left in flight and reserved at the end: {left} (nothing)"),
        (found["exit_code"] == 0, f"the gateway drained and ended with {found['exit_code']} (0)"),
        (not found["log_errors"], f"{len(found['log_errors'])} errors in the gateway's log (0)"),
    ]


def main() -> int:
    """Runs it; 1 where something was lost or left over."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--logs", type=Path, help="folder that keeps the processes' logs")
    args = parser.parse_args()
    found = asyncio.run(run(minutes=args.minutes, rate=args.rate, seed=args.seed, logs=args.logs))
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), "utf-8")
    if not found["has_redis"]:
        print("redis-server is not installed: limits were counted in memory")
    print(f"{found['sent']} requests in {args.minutes:g} minutes; what happened: {found['actions']}")
    print(f"clients saw {found['seen']}; the gateway counted {found['counted']}")
    for line in [*found["lost"][:10], *found["problems"][:10], *found["log_errors"][:5]]:
        print(f"  {line}")
    checks = checks_of(found)
    for holds, words in checks:
        print(f"{'ok' if holds else 'NO'} {words}")
    return 0 if all(holds for holds, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
