"""What an engine costs and how much it holds: the parameters from which its batching can be predicted without it.

A *profile* is made by whoever measures (calibration) or writes down published figures, and used by whoever predicts
(the simulated engine, planning). It describes one (variant, target) pair on one kind of machine; it is no measurement,
because nothing that it predicts was observed.

The time of any stretch of engine work is linear in what was computed in it:

    duration = base x steps + change x (steps of another size than the one before) + prefill x prompt tokens
             + attention x (prompt token, context token) pairs + decode x output tokens + context x context tokens read
             + request x new requests (+ latency x requests)

`EngineWork` counts what was computed, `StepCosts` says what one unit of each costs, `StepObservation` is such a stretch
with the time it really took.
"""

from __future__ import annotations

import difflib
import hashlib
import math
from enum import StrEnum

import msgspec

from lightship.errors import UsageError
from lightship.ports.measurements import Target

# Changes when a reader of older files would misunderstand newer ones.
SCHEMA = "lightship-engine-profile/2"
# Seconds. An hour for one unit of work: far above any engine, far below what overflows in a long simulation.
MAX_COST_S = 3600.0
# Tokens, blocks, sequences: above any engine, and small enough that products of two stay exact in a float.
MAX_COUNT = 2**31


class StepCosts(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Seconds that one unit of work adds to the engine's time. Together they are one row of a linear model.

    Args:
        step_s: One engine step, whatever is in it.
        batch_change_s: A step that computes another number of tokens than the one before it, on top of `step_s`:
            engines with dynamic shapes lay out buffers and look up kernels anew then. Under saturation every step is
            full and none changes; under light load nearly every prompt makes two changes.
        prefill_token_s: One prompt token that the prefix cache did not have.
        prefill_pair_s: One prompt token attending to one token before it (or itself): the quadratic part of prefill.
        decode_token_s: One output token; what serving it costs on the same cores (HTTP, detokenisation, a client on
            the machine) is part of it.
        context_token_s: One token of context that one output token attends to.
        new_request_s: A request that joins: what taking it (HTTP, tokenisation) takes from the cores that compute.
        request_latency_s: A request on its way in and its first token on the way out; takes nothing from the engine.
    """

    step_s: float
    batch_change_s: float = 0.0
    prefill_token_s: float
    prefill_pair_s: float = 0.0
    decode_token_s: float
    context_token_s: float = 0.0
    new_request_s: float = 0.0
    request_latency_s: float = 0.0

    def __post_init__(self) -> None:
        """Raises: ValueError: a cost is negative, not a number or over the bound."""
        for name in self.__struct_fields__:
            cost_s = getattr(self, name)
            if not (math.isfinite(cost_s) and 0 <= cost_s <= MAX_COST_S):
                raise ValueError(f"{name} must be from 0 to {MAX_COST_S:g} s, got {cost_s!r}")
        if self.step_s + min(self.prefill_token_s, self.decode_token_s) <= 0:
            raise ValueError("step_s, or both prefill_token_s and decode_token_s, must be over 0: a step takes time")


class EngineWork(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What was computed in one step, or in any stretch of steps: counts, which may be fractions in an observation."""

    num_steps: float = 0
    num_batch_changes: float = 0
    num_prefill_tokens: float = 0
    num_prefill_pairs: float = 0
    num_decode_tokens: float = 0
    num_context_tokens: float = 0
    num_new_requests: float = 0
    num_request_latencies: float = 0

    @property
    def counts(self) -> tuple[float, ...]:
        """The counts, in the order of the costs in `StepCosts`."""
        return (
            self.num_steps,
            self.num_batch_changes,
            self.num_prefill_tokens,
            self.num_prefill_pairs,
            self.num_decode_tokens,
            self.num_context_tokens,
            self.num_new_requests,
            self.num_request_latencies,
        )


class StepObservation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Work, and the time it took. `kind` names the experiment it comes from (`ttft`, `decode`, `mixed`)."""

    kind: str
    work: EngineWork
    duration_s: float


class EngineLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much an engine takes at a time. Tokens, sequences and blocks.

    Args:
        max_batched_tokens: Most tokens computed in one step; longer prompts are split over steps.
        max_sequences: Most sequences that hold KV cache at a time; never more than `max_batched_tokens`, so that each
            of them gets its token in every step.
        max_waiting_requests: Sequences that may wait behind those; more are refused.
        num_kv_blocks: Blocks of the KV cache, shared by running sequences and the prefix cache.
        kv_block_tokens: Tokens of one block.
        context_length: Most tokens of one sequence, prompt and output together.
        has_prefix_cache: Whether blocks are kept for prompts that begin alike.
    """

    max_batched_tokens: int = 256
    max_sequences: int = 256
    max_waiting_requests: int = 256
    num_kv_blocks: int = 4096
    kv_block_tokens: int = 32
    context_length: int = 4096
    has_prefix_cache: bool = True

    def __post_init__(self) -> None:
        """Raises: ValueError: a bound is out of range, or they contradict each other."""
        for name in self.__struct_fields__:
            count = getattr(self, name)
            lowest = 0 if name == "max_waiting_requests" else 1
            if name != "has_prefix_cache" and not lowest <= count <= MAX_COUNT:
                raise ValueError(f"{name} must be from {lowest} to {MAX_COUNT}, got {count}")
        if self.max_sequences > self.max_batched_tokens:
            raise ValueError(
                f"max_sequences is {self.max_sequences}, over max_batched_tokens {self.max_batched_tokens}: "
                "not every sequence would get a token in a step"
            )

    @property
    def usable_context(self) -> int:
        """Tokens one sequence may have: the context length, or what the KV cache holds when that is less."""
        return min(self.context_length, self.num_kv_blocks * self.kv_block_tokens)


class ProfileOrigin(StrEnum):
    """Where the costs come from, the most trustworthy first."""

    FITTED = "fitted"  # from our own measurements, with residuals
    PUBLISHED = "published"  # worked out from figures somebody published; approximate
    ASSUMED = "assumed"  # made up, for tests


class ProfileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a profile is about and where its costs come from.

    `description` says so for people. For fitted profiles `variant_digest`, `target` and `machine` name what was
    measured as measurements do, and `measured_unix_s` when.
    """

    origin: ProfileOrigin
    description: str
    model_name: str = ""
    variant_digest: str = ""
    target: Target | None = None
    machine: str = ""
    measured_unix_s: float = 0.0


class FitQuality(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How well the costs reproduce what they were fitted to. Errors are shares: 0.1 is a tenth of the observed time.

    `median_errors` has one entry for each kind of observation. `assumed_zero` names costs that were not fitted.
    """

    num_observations: int
    median_error: float
    p90_error: float
    median_errors: dict[str, float]
    assumed_zero: tuple[str, ...] = ()


class EngineProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine with one variant on one kind of machine, as a model of its time and room."""

    name: str
    costs: StepCosts
    limits: EngineLimits
    source: ProfileSource
    fit: FitQuality | None = None
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        """Raises: ValueError: no name, or a file of another schema."""
        if not self.name or len(self.name) > 128:
            raise ValueError("name must have 1 to 128 characters")
        if self.schema != SCHEMA:
            raise ValueError(f"schema is {self.schema!r}; this version reads {SCHEMA!r}")

    @property
    def digest(self) -> str:
        """Names the content, as `sha256:<hex>`; equal profiles have equal digests."""
        return "sha256:" + hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()


def encode_profile(profile: EngineProfile) -> bytes:
    """The profile as JSON for people and for `decode_profile`."""
    return msgspec.json.format(msgspec.json.encode(profile), indent=2) + b"\n"


def decode_profile(document: bytes, *, where: str) -> EngineProfile:
    """The profile in a JSON document.

    Args:
        where: Name of the document, for messages.

    Raises: UsageError: not JSON, or a field is missing, unknown or out of range.
    """
    try:
        return msgspec.json.decode(document, type=EngineProfile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"not an engine profile: {error}", where=where, hint=_nearest_field(str(error))) from error


def _nearest_field(message: str) -> str | None:
    if "unknown field" not in message:
        return None
    kinds = (EngineProfile, StepCosts, EngineLimits, ProfileSource, FitQuality)
    known = [name for kind in kinds for name in kind.__struct_fields__]
    near = difflib.get_close_matches(message.split("`")[1], known, n=1)
    return f"Did you mean {near[0]!r}?" if near else None
