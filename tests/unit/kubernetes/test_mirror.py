"""A mirror of Pods, against a fake server in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from lightship.kubernetes.backoff import Backoff
from lightship.kubernetes.errors import KubernetesError
from lightship.kubernetes.mirror import ObjectMirror
from lightship.kubernetes.resources import PODS
from lightship.testing.fake_kubernetes import FakeKubernetes
from lightship.testing.virtual_time import LoopClock, run_in_virtual_time

Body = Callable[[FakeKubernetes, ObjectMirror, list[KubernetesError]], Awaitable[None]]


def pod(name: str, **labels: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": {}}


def with_mirror(body: Body) -> None:
    async def main() -> None:
        fake, clock = FakeKubernetes(clock=LoopClock()), LoopClock()
        errors: list[KubernetesError] = []
        mirror = ObjectMirror(
            fake.client(clock=clock),
            PODS,
            clock=clock,
            namespace="default",
            label_selector="app=a",
            on_error=errors.append,
            draw=lambda: 0.0,
            backoff=Backoff(first_s=1.0, most_s=16.0, draw=lambda: 1.0),
        )
        task = asyncio.create_task(mirror.run())
        try:
            await body(fake, mirror, errors)
        finally:
            task.cancel()

    run_in_virtual_time(main())


async def settle() -> None:
    await asyncio.sleep(0.001)


def num_lists(fake: FakeKubernetes) -> int:
    return sum(call.verb == "list" for call in fake.calls)


def test_mirror_follows_what_is_made_changed_and_deleted() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        fake.put(pod("old", app="a"))
        await settle()
        assert list(mirror.objects) == ["old"]
        fake.put(pod("new", app="a"))
        fake.put(pod("other", app="b"))
        fake.put({**pod("old", app="a"), "status": {"phase": "Running"}})
        await settle()
        assert mirror.objects["old"]["status"] == {"phase": "Running"}
        assert "managedFields" not in mirror.objects["old"]["metadata"]
        fake.remove(PODS, "old")
        await settle()
        assert list(mirror.objects) == ["new"]
        assert num_lists(fake) == 1
        assert errors == []

    with_mirror(body)


def test_mirror_watch_that_ends_goes_on_from_where_it_was() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        await settle()
        await asyncio.sleep(400)  # more than two watches of 180 s
        fake.put(pod("late", app="a"))
        await settle()
        assert list(mirror.objects) == ["late"]
        assert num_lists(fake) == 1
        assert sum(call.verb == "watch" for call in fake.calls) == 3
        assert errors == []

    with_mirror(body)


def test_mirror_history_that_is_lost_is_read_anew() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        fake.put(pod("gone", app="a"))
        await settle()
        fake.is_down = True
        fake.end_watches()
        await settle()
        fake.remove(PODS, "gone")
        fake.put(pod("here", app="a"))
        fake.end_watches(is_history_lost=True)
        fake.is_down = False
        assert list(mirror.objects) == ["gone"]  # the last that was known
        await asyncio.sleep(2)
        assert list(mirror.objects) == ["here"]
        assert num_lists(fake) == 2

    with_mirror(body)


def test_mirror_server_that_is_down_is_tried_in_growing_pauses_and_nothing_is_forgotten() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        clock = LoopClock()
        fake.put(pod("here", app="a"))
        await asyncio.sleep(30)
        assert mirror.silent_s(clock.monotonic_s()) == 0
        fake.is_down = True
        fake.end_watches()
        await asyncio.sleep(60.5)
        # The watch breaks at 30 s; pauses are 1, 2, 4, 8, 16, 16 s, so tries fail at 30, 31, 33, 37, 45, 61, 77.
        assert len(errors) == 7
        assert list(mirror.objects) == ["here"]
        assert 60 < mirror.silent_s(clock.monotonic_s()) < 61
        fake.is_down = False
        await asyncio.sleep(3)  # the next try is at 93 s
        assert mirror.silent_s(clock.monotonic_s()) == 0
        assert mirror.error is None

    with_mirror(body)


def test_mirror_server_that_never_keeps_history_is_asked_in_pauses() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        fake.store.oldest_version = 10**9
        await asyncio.sleep(60)
        # Once at once, then after pauses of 1, 2, 4, 8, 16, 16 s: at 0, 0, 1, 3, 7, 15, 31 and 47 s.
        assert num_lists(fake) == 8

    with_mirror(body)


def test_mirror_of_more_objects_than_it_may_hold_says_so() -> None:
    async def main() -> None:
        fake, clock = FakeKubernetes(clock=LoopClock()), LoopClock()
        for number in range(4):
            fake.put(pod(f"p{number}"))
        mirror = ObjectMirror(fake.client(clock=clock), PODS, clock=clock, namespace="default", most_objects=3)
        task = asyncio.create_task(mirror.run())
        await settle()
        task.cancel()
        assert mirror.error is not None
        assert "more than 3 pods" in str(mirror.error)
        assert mirror.silent_s(clock.monotonic_s()) == float("inf")

    run_in_virtual_time(main())


def test_mirror_denied_list_keeps_trying_and_tells_the_rule() -> None:
    async def body(fake: FakeKubernetes, mirror: ObjectMirror, errors: list[KubernetesError]) -> None:
        fake.rules = []
        await settle()
        assert 'cannot list resource "pods" in API group "" in the namespace "default"' in str(mirror.error)
        fake.rules = None
        await asyncio.sleep(20)
        assert mirror.error is None
        assert mirror.is_listed

    with_mirror(body)
