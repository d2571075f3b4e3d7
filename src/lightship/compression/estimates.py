"""What the steps of a recipe are expected to take, before any of them runs."""

from __future__ import annotations

import dataclasses

from lightship.artifacts.checkpoint import Checkpoint
from lightship.compression.steps.base import JobEstimate, JobPlan, StepContext, StepPlan
from lightship.compression.steps.registry import find_step
from lightship.errors import LightshipError
from lightship.ports.variants import Recipe


def plan_steps(recipe: Recipe, checkpoint: Checkpoint, context: StepContext) -> tuple[StepPlan | None, ...]:
    """The plan of each step; None for one that cannot tell before the step above is made.

    The parent of every step but the first does not exist yet; the source stands in for it, with the format and size
    that it will have.

    Raises: SpecError: a step does not exist here, or the first one does not suit the model.
    Effects: what `Step.plan` does: looks at the source's folder, at most.
    """
    parent, plans = checkpoint, []
    for count, one in enumerate(recipe.steps):
        step = find_step(one.kind, parent.weight_format)
        options = step.options(one)
        plan: StepPlan | None = None
        try:
            plan = step.plan(options, parent, context)
        except (LightshipError, FileNotFoundError):  # a plan may look at files that the step above has yet to make
            if count == 0:
                raise
        plans.append(plan)
        weight_bytes = plan.estimate.disk_bytes if isinstance(plan, JobPlan) else parent.weight_bytes
        parent = dataclasses.replace(parent, weight_format=step.result_format(options), weight_bytes=weight_bytes)
    return tuple(plans)


def estimate_steps(recipe: Recipe, checkpoint: Checkpoint, context: StepContext) -> tuple[JobEstimate | None, ...]:
    """The estimate of each step; None for one that only copies, or that cannot tell yet.

    Raises, Effects: see `plan_steps`.
    """
    plans = plan_steps(recipe, checkpoint, context)
    return tuple(plan.estimate if isinstance(plan, JobPlan) else None for plan in plans)
