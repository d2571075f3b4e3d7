"""Waits until what was applied serves, and says why where it does not."""

from __future__ import annotations

from collections.abc import Sequence

from lightship.deploy.apply.manifests import ObjectKey
from lightship.deploy.apply.options import ApplyError, ApplyOptions, RolloutError
from lightship.deploy.apply.rollout import Rollout, RolloutPhase, rollout
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import KubernetesError, NotFoundError, UnreachableError
from lightship.kubernetes.pods import PodState
from lightship.kubernetes.resources import DEPLOYMENTS, EVENTS, PODS, JsonObject
from lightship.ports.clock import Clock
from lightship.ports.progress import Progress, Task

_LOOK_EVERY_S = 1.0
_LOG_LINES = 15
# Pods are pulled and scheduled before a Deployment's own deadline counts its failures.
_BEYOND_DEADLINE_S = 60.0


async def wait_until_serving(
    client: KubernetesClient,
    keys: Sequence[ObjectKey],
    *,
    options: ApplyOptions,
    clock: Clock,
    progress: Progress,
) -> None:
    """Returns when every Deployment among these has all its Pods ready.

    A server that is away for a while is waited for.

    Raises: RolloutError: one of them fails, or the time is over; with its Pods' reasons, events and last lines.
    """
    for key in [key for key in keys if key.kind == "Deployment" and key.api_version == "apps/v1"]:
        with progress.task(f"wait for {key.name}") as task:
            await _Wait(client, key, options=options, clock=clock, task=task).until_done()


async def wait_until_gone(
    client: KubernetesClient, keys: Sequence[ObjectKey], *, limit_s: float, clock: Clock, progress: Progress
) -> None:
    """Returns when none of these is there any more. Raises: ApplyError: some still are when the time is over."""
    left, ends_s = list(keys), clock.monotonic_s() + limit_s
    with progress.task("wait until they are gone") as task:
        while left:
            left = [key for key in left if await _is_there(client, key)]
            task.advance(done=len(keys) - len(left), total=len(keys))
            if left and clock.monotonic_s() >= ends_s:
                raise ApplyError(
                    f"after {limit_s:g} s these are still there: {', '.join(map(str, left))}",
                    hint="Something holds them: look at their finalizers, and at what uses them.",
                )
            if left:
                await clock.sleep(_LOOK_EVERY_S)


async def _is_there(client: KubernetesClient, key: ObjectKey) -> bool:
    try:
        resource = await client.resource_of(key.api_version, key.kind)
        return await client.find(resource, key.name, namespace=key.namespace) is not None
    except NotFoundError:
        return False
    except UnreachableError:
        return True  # nobody can say, so it may be


class _Wait:
    """One Deployment that is waited for."""

    def __init__(
        self, client: KubernetesClient, key: ObjectKey, *, options: ApplyOptions, clock: Clock, task: Task
    ) -> None:
        self._client = client
        self._key = key
        self._options = options
        self._clock = clock
        self._task = task
        self._stuck_since_s: dict[str, float] = {}

    async def until_done(self) -> None:
        started_s, last, limit_s = self._clock.monotonic_s(), None, self._options.wait_limit_s
        while True:
            trouble = ""
            try:
                deployment = await self._client.get(DEPLOYMENTS, self._key.name, namespace=self._key.namespace)
                last = rollout(deployment, await self._pods(deployment))
                limit_s = limit_s or float(deployment["spec"].get("progressDeadlineSeconds", 600)) + _BEYOND_DEADLINE_S
            except UnreachableError as error:
                trouble = f"the API server does not answer: {error.what}"
            except KubernetesError as error:
                raise RolloutError(f"{self._key} cannot be watched: {error}") from error
            now_s = self._clock.monotonic_s()
            if last is not None:
                note = trouble or "; ".join([last.detail, *(f"{one.name}: {one.detail}" for one in last.stuck[:1])])
                self._task.advance(done=last.num_ready, total=last.num_wanted, note=note)
                if not trouble and last.phase is RolloutPhase.DONE:
                    return
                if not trouble and last.phase is RolloutPhase.FAILED:
                    raise await self._failure(last, last.detail)
                if not trouble and (stuck := self._stuck_for_too_long(last, now_s)):
                    raise await self._failure(last, f"{stuck.name}: {stuck.detail}")
            if now_s - started_s >= (limit_s or _BEYOND_DEADLINE_S):
                detail = trouble or (last.detail if last else "nothing is known of it")
                raise await self._failure(last, f"not ready after {now_s - started_s:.0f} s: {detail}")
            await self._clock.sleep(_LOOK_EVERY_S)

    async def _pods(self, deployment: JsonObject) -> list[JsonObject]:
        labels = deployment["spec"]["selector"].get("matchLabels", {})
        selector = ",".join(f"{name}={value}" for name, value in labels.items())
        listing = await self._client.list(PODS, namespace=self._key.namespace, label_selector=selector)
        return [pod for pod in listing.items if "deletionTimestamp" not in pod["metadata"]]

    def _stuck_for_too_long(self, seen: Rollout, now_s: float) -> PodState | None:
        """A Pod from which nothing is to be expected, and for long enough to believe it."""
        hopeless = {state.name: state for state in seen.stuck if not state.may_come}
        self._stuck_since_s = {name: self._stuck_since_s.get(name, now_s) for name in hopeless}
        for name, since_s in self._stuck_since_s.items():
            if now_s - since_s >= self._options.patience_s:
                return hopeless[name]
        return None

    async def _failure(self, seen: Rollout | None, why: str) -> RolloutError:
        lines = [f"{self._key} does not come to serve: {why}"]
        for state in (seen.stuck if seen else ())[:3]:
            lines.append(f"- Pod {state.name}: {state.detail}")
            lines += await self._evidence(state)
        return RolloutError(
            "\n".join(lines),
            hint="What was applied stays. Correct the cause and apply again, or go back: "
            f"kubectl rollout undo deployment/{self._key.name} -n {self._key.namespace}",
        )

    async def _evidence(self, state: PodState) -> list[str]:
        """Warnings about a Pod, and its last lines; nothing where they cannot be read."""
        namespace, lines = self._key.namespace, []
        try:
            events = await self._client.list(
                EVENTS, namespace=namespace, field_selector=f"involvedObject.name={state.name},type=Warning"
            )
            lines += [f"    event {one['reason']}: {one['message']}" for one in events.items[-3:]]
            if "again and again" in state.detail:
                text = await self._client.log(state.name, namespace=namespace, is_previous=True, tail_lines=_LOG_LINES)
                lines += [f"    log: {line}" for line in text.splitlines()]
        except KubernetesError:
            return lines  # the failure itself is what matters
        return lines
