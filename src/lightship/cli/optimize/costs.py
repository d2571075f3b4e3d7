"""What finding out about a candidate is expected to take: jobs by their own estimates, the rest by what engines need.

Rough on purpose, on two cores; the search compares with what it took and never overspends by more than one action.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.estimates import plan_steps
from lightship.compression.search.records import Candidate, CostEstimates
from lightship.compression.steps.base import CopyPlan, JobPlan, StepContext, StepPlan
from lightship.compression.toolchains.definitions import GGUF, VLLM
from lightship.errors import LightshipError
from lightship.evaluation.performance.protocol import PerformanceProtocol
from lightship.ports.variants import RecipeStep

# Seconds from the start of a worker to its first token, measured here with small models; vLLM compiles first.
USUAL_STARTUP_S = {"openvino": 3.0, "vllm": 90.0, "llamacpp": 3.0}
# Seconds that a warm package index needs for a toolchain of a few gigabytes; llama.cpp is compiled.
_INSTALL_S, _COMPILE_S = 90.0, 400.0
# Seconds of a step that cannot be estimated before the one above it is made; copies take none.
_UNKNOWN_S = {"quantize": 30.0, "distill": 1200.0}
# Tokens of the held-out texts, and what a core multiplies per second in practice (float32 products and additions).
_SCORED_TOKENS, _FLOPS_PER_S = 10_000, 2e10
# llama-server predicts after every prefix, one token at a time: reading the weights is what takes the time then.
_PREFIX_S_PER_TOKEN, _READ_BYTES_PER_S = 0.004, 5e9
# Tokens of a task's item with its prompt and choices, and seconds of an item besides its arithmetic.
_ITEM_TOKENS, _ITEM_S = 300, 0.02
_ENGINE_TOOLCHAINS = {"vllm": VLLM, "llamacpp": GGUF}


@dataclass(frozen=True)
class CostModel:
    """Estimates for candidates of one checkpoint.

    Args:
        installed: Toolchains that are there already.
        num_task_items: Items of the tasks that finalists are asked, all together.
    """

    checkpoint: Checkpoint
    context: StepContext
    protocol: PerformanceProtocol
    installed: frozenset[str]
    num_task_items: int = 0

    def estimate(self, candidate: Candidate) -> CostEstimates:
        """Seconds for each step of the recipe, for quality, speed and tasks; a recipe that cannot be has zeros."""
        steps = candidate.recipe.steps
        try:
            plans = plan_steps(candidate.recipe, self.checkpoint, self.context)
        except LightshipError:
            plans = (CopyPlan(lambda _: None),) * len(steps)
        steps_s = [_duration_s(step, plan) for step, plan in zip(steps, plans, strict=True)]
        if steps_s:
            steps_s[0] += self._installation_s(candidate.engine, plans)
        startup_s = USUAL_STARTUP_S[candidate.engine]
        load_s = self.protocol.num_runs * (
            startup_s + len(self.protocol.concurrencies) * (2.0 + self.protocol.duration_s)
        )
        if any(step.kind == "draft" for step in steps):
            load_s += 2 * startup_s  # its trial: a worker without it, and one with it
        return CostEstimates(
            steps_s=tuple(steps_s),
            quality_s=startup_s + self._scoring_s(candidate.engine),
            speed_s=load_s,
            tasks_s=startup_s + self._asking_s() if self.num_task_items else 0.0,
        )

    def _asking_s(self) -> float:
        of_item_s = _ITEM_S + 2.0 * self.checkpoint.num_parameters * _ITEM_TOKENS / _FLOPS_PER_S
        return self.num_task_items * of_item_s

    def _scoring_s(self, engine: str) -> float:
        if engine == "llamacpp":
            reading_s = self.checkpoint.weight_bytes / _READ_BYTES_PER_S
            return _SCORED_TOKENS * max(_PREFIX_S_PER_TOKEN, reading_s)
        return 2.0 + 2.0 * self.checkpoint.num_parameters * _SCORED_TOKENS / _FLOPS_PER_S

    def _installation_s(self, engine: str, plans: Sequence[StepPlan | None]) -> float:
        wanted = {plan.toolchain for plan in plans if isinstance(plan, JobPlan) and plan.toolchain is not None}
        if engine in _ENGINE_TOOLCHAINS:
            wanted.add(_ENGINE_TOOLCHAINS[engine])
        missing = [toolchain for toolchain in wanted if toolchain.name not in self.installed]
        return sum(_COMPILE_S if toolchain.built_from else _INSTALL_S for toolchain in missing)


def _duration_s(step: RecipeStep, plan: StepPlan | None) -> float:
    if plan is None:
        return _UNKNOWN_S.get(step.kind, 0.0)
    return plan.estimate.duration_s if isinstance(plan, JobPlan) else 0.0
