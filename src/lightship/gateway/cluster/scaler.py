"""One Deployment: what `scale` decides is patched into its `scale` subresource, by the leader only.

Level-triggered: what the Deployment asks for is compared with what is decided now, so a patch that was lost is made up
for at the next look. What somebody else changed in between is where the next decision starts from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import msgspec

from lightship.gateway.cluster.config import PoolConfig
from lightship.gateway.cluster.decisions import DecisionLog, DecisionRecord, Effect
from lightship.gateway.cluster.problems import problem_of
from lightship.kubernetes.backoff import Backoff
from lightship.kubernetes.client import KubernetesClient
from lightship.kubernetes.errors import ConflictError, KubernetesError
from lightship.kubernetes.resources import DEPLOYMENTS, JsonObject
from lightship.ports.clock import Clock
from lightship.scaling.records import ScaleDecision, ScaleHistory, ScaleLoad, ScalePolicy

_log = logging.getLogger(__name__)

ScaleFunction = Callable[[ScaleLoad, ScaleHistory, ScalePolicy], ScaleDecision]
# A Deployment's version changes with its status, so the first patch may well meet a newer one.
_MAX_TRIES = 4


class PoolScaler:
    """The replicas of one rung.

    Args:
        client: The way to the server.
        pool: The rung.
        namespace: Where its Deployment is.
        scale: Decides.
        log: Keeps what was decided.
        clock: Time.
        refresh_s: Between two reads of what the Deployment asks for.
        request_limit_s: Longest time of a patch.
        may_act_for_s: Seconds for which this gateway may still write; 0 when it may not.
        on_error: Called with each failed call, for counting.
        backoff: Pauses after failures.
    """

    def __init__(
        self,
        client: KubernetesClient,
        pool: PoolConfig,
        *,
        namespace: str,
        scale: ScaleFunction,
        log: DecisionLog,
        clock: Clock,
        refresh_s: float,
        request_limit_s: float,
        may_act_for_s: Callable[[], float],
        on_error: Callable[[KubernetesError], None] = lambda _: None,
        backoff: Backoff | None = None,
    ) -> None:
        self.pool = pool
        self._client = client
        self._namespace = namespace
        self._scale = scale
        self._decisions = log
        self._clock = clock
        self._refresh_s = refresh_s
        self._request_limit_s = request_limit_s
        self._may_act_for_s = may_act_for_s
        self._on_error = on_error
        self._backoff = backoff or Backoff(first_s=1.0, most_s=60.0)
        self._history: ScaleHistory | None = None
        self._looked_s = float("-inf")
        self._paused_until_s = float("-inf")
        self.asked_replicas: int | None = None
        self.problem = ""
        self.other_writer = ""

    def begin_term(self) -> None:
        """Effects: nothing of the past is taken for true: a new leader begins with what there is."""
        self._history = None
        self._looked_s = self._paused_until_s = float("-inf")
        self.problem = ""

    def end_term(self) -> None:
        """Effects: what the Deployment asks for is for others to know now."""
        self.asked_replicas = None
        self.problem = ""

    async def step(self, load: ScaleLoad, *, missing: str, least: int = 0) -> None:
        """Effects: decides once, and acts where something is to be done.

        Args:
            load: How the pool stands; not complete where `missing` says what is missing.
            missing: See there.
            least: Replicas that the rest of its ladder needs of it now; the policy's bounds stand above that.
        """
        now_s = self._clock.monotonic_s()
        if now_s < self._paused_until_s:
            return
        try:
            if self._history is None or now_s - self._looked_s >= self._refresh_s:
                self._take(await self._look())
            await self._decide(load, missing, least)
            self._backoff.reset()
            self.problem = ""
        except KubernetesError as error:
            self._note_failure(error)

    async def _decide(self, load: ScaleLoad, missing: str, least: int) -> None:
        assert self._history is not None
        before = self.asked_replicas
        policy = self.pool.policy
        least = min(max(least, policy.min_replicas), policy.max_replicas)
        policy = msgspec.structs.replace(policy, min_replicas=least)
        decision = self._scale(load, self._history, policy)
        replicas = min(max(decision.replicas, policy.min_replicas), policy.max_replicas)
        self._history = decision.history
        problem, effect = "", Effect.NONE
        if self.other_writer:
            problem, effect = f"{self.other_writer} scales this Deployment", Effect.LEFT_TO_OTHERS
        elif not load.is_complete:
            problem, effect = missing, Effect.FROZEN
        elif replicas != before:
            try:
                effect = await self._act(replicas)
            except KubernetesError as error:
                self._note(decision, replicas, before, Effect.FAILED, problem_of(error, namespace=self._namespace))
                raise
        self._note(decision, replicas, before, effect, problem)

    async def _act(self, replicas: int) -> Effect:
        """Effects: the Deployment asks for so many, unless somebody else changed it, or this gateway leads no more."""
        before = self.asked_replicas
        for _ in range(_MAX_TRIES):
            seen = await self._look()
            if seen["spec"].get("replicas", 0) != before:
                self._take(seen)
                return Effect.OVERTAKEN
            limit_s = min(self._request_limit_s, self._may_act_for_s())
            if limit_s <= 0:
                return Effect.OVERTAKEN
            version = seen["metadata"]["resourceVersion"]
            try:
                patched = await self._client.merge_patch(
                    DEPLOYMENTS,
                    self.pool.deployment,
                    {"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}},
                    namespace=self._namespace,
                    subresource="scale",
                    limit_s=limit_s,
                )
            except ConflictError as error:
                self._on_error(error)
                continue
            self.asked_replicas = patched["spec"].get("replicas", 0)
            return Effect.SCALED
        return Effect.OVERTAKEN

    async def _look(self) -> JsonObject:
        seen = await self._client.get(DEPLOYMENTS, self.pool.deployment, namespace=self._namespace, subresource="scale")
        self._looked_s = self._clock.monotonic_s()
        return seen

    def _take(self, seen: JsonObject) -> None:
        replicas, now_s = int(seen["spec"].get("replicas", 0)), self._clock.monotonic_s()
        if self._history is None:
            # What ran before is not known, so what runs counts as wanted and used until now: no leader begins by
            # taking away what its predecessor had reasons for.
            self._history = ScaleHistory(replicas=replicas, wanted=((now_s, replicas),), last_busy_s=now_s)
        elif replicas != self.asked_replicas:
            _log.info("somebody set %s to %d replicas", self.pool.deployment, replicas)
            self._history = msgspec.structs.replace(self._history, replicas=replicas)
        self.asked_replicas = replicas

    def _note_failure(self, error: KubernetesError) -> None:
        self._on_error(error)
        problem = problem_of(error, namespace=self._namespace)
        if problem != self.problem:
            _log.warning("%s cannot be scaled: %s", self.pool.deployment, problem)
        self.problem = problem
        self._paused_until_s = self._clock.monotonic_s() + self._backoff.next_s()

    def _note(self, decision: ScaleDecision, replicas: int, before: int | None, effect: Effect, problem: str) -> None:
        record = DecisionRecord(
            unix_s=self._clock.unix_s(),
            served_model=self.pool.served_model,
            rung=self.pool.rung,
            deployment=self.pool.deployment,
            replicas_before=before,
            replicas=replicas,
            reason=decision.reason.value,
            detail=decision.detail,
            effect=effect,
            problem=problem,
        )
        if self._decisions.note(record) and effect is not Effect.NONE:
            text = f"{record.detail}; {problem}" if problem else record.detail
            _log.info("%s: %s -> %d replicas, %s (%s)", record.deployment, before, replicas, effect.value, text)
