"""Does a rung fit the machine, and what would make it fit. Pure; each suggestion is the plan made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lightship.errors import UsageError
from lightship.planning.accelerators import Accelerator
from lightship.planning.memory import MemoryPlan, plan_memory
from lightship.planning.records import MachineToPlan, RungToPlan
from lightship.ports.deployment import Figure, FigureSource
from lightship.units import format_bytes

# Share of a machine's memory that a replica may plan with: the rest is the system's, and vLLM leaves as much of a GPU
# (its default of gpu_memory_utilization is 0.9).
MEMORY_SHARE = 0.9
_SMALLER_CACHE_TYPES = {"openvino": "u8", "llamacpp": "q8_0", "vllm": "fp8"}
_LOWER_BITS = (8, 4)
_LEAST_SEQUENCES, _LEAST_STEP_TOKENS, _LEAST_CONTEXT = 1, 64, 512
_LEAST_CACHE_BYTES = 2**24


@dataclass(frozen=True)
class Fit:
    """What a rung takes of the tighter of host and devices, and what there is."""

    memory: MemoryPlan
    place: str
    needed: Figure
    limit: Figure

    @property
    def missing_bytes(self) -> float:
        """Bytes that are too many; 0 where it fits."""
        return max(0.0, self.needed.value - self.limit.value)

    @property
    def is_fitting(self) -> bool:
        """Whether there is room."""
        return self.missing_bytes == 0


@dataclass(frozen=True)
class Change:
    """Something to do differently, and what one replica takes then. `missing_bytes` is 0 where it fits."""

    what: str
    needed_bytes: float
    missing_bytes: float

    @property
    def is_enough(self) -> bool:
        """Whether it fits then."""
        return self.missing_bytes == 0


def fit(rung: RungToPlan, machine: MachineToPlan) -> Fit:
    """How the rung stands to the machine's memory, at a full cache.

    Raises: UsageError: the engine cannot run it there.
    """
    check_runnable(rung, machine)
    memory = plan_memory(rung.shape, rung.weight_bytes.value, rung.settings)
    host = Fit(memory, "memory", memory.host_total, _share(machine.memory_bytes))
    if machine.accelerator is None:
        return host
    device_bytes = Figure(
        machine.accelerator.memory_bytes,
        "B",
        FigureSource.VENDOR,
        f"{machine.accelerator.name}: {machine.accelerator.origin}",
    )
    device = Fit(memory, "memory of each GPU", memory.device_total, _share(device_bytes))
    return max(host, device, key=lambda one: one.needed.value / max(1.0, one.limit.value))


def check_runnable(rung: RungToPlan, machine: MachineToPlan) -> None:
    """Returns when the engine can run the variant on such a machine.

    Raises: UsageError: it cannot.
    """
    settings = rung.settings
    where = f"{rung.name}@{settings.engine}"
    if settings.is_gpu and settings.engine != "vllm":
        hint = "Plan it with --engine vllm, or without --gpu."
        raise UsageError(f"{settings.engine} is not planned on NVIDIA or AMD GPUs", where=where, hint=hint)
    if settings.is_gpu and machine.accelerator is None:
        raise UsageError("the worker is on GPUs and the machine has none", where=where, hint="Name one with --gpu.")
    if settings.is_gpu and settings.tensor_parallel > machine.num_accelerators:
        raise UsageError(
            f"each layer over {settings.tensor_parallel} GPUs on a machine with {machine.num_accelerators}",
            where=where,
            hint=f"Write --gpus {settings.tensor_parallel}, or lower engines.vllm.tensor_parallel.",
        )
    heads, parts = rung.shape.num_heads, settings.tensor_parallel
    if settings.engine == "vllm" and heads % parts:
        fitting = [k for k in range(1, heads + 1) if heads % k == 0]
        raise UsageError(
            f"{heads} attention heads cannot be split over {parts} devices",
            where=where,
            hint=f"Take a tensor_parallel of {', '.join(map(str, fitting))}.",
        )


def changes(rung: RungToPlan, machine: MachineToPlan, accelerators: Sequence[Accelerator]) -> tuple[Change, ...]:
    """What can be changed where it does not fit, least painful first; all settings together where none is enough.

    A change that takes no less memory is left out.
    """
    before = fit(rung, machine)
    found: list[Change] = []
    together = rung
    for what, changed in _setting_changes(rung):
        after = fit(changed, machine)
        if after.needed.value < before.needed.value:
            found.append(_change(what, after))
            together = _merged(together, rung, changed)
    if found and not any(change.is_enough for change in found):
        found.append(_change("all of these together", fit(together, machine)))
    found += [_change(what, after) for what, after in _other_hardware(rung, machine, accelerators)]
    return tuple(found)


def _setting_changes(rung: RungToPlan) -> Iterator[tuple[str, RungToPlan]]:
    settings = rung.settings
    smaller = _SMALLER_CACHE_TYPES[settings.engine]
    if settings.kv_cache_type != smaller:
        has_flash = settings.flash_attention or settings.engine == "llamacpp"  # which reads no other quantized cache
        # half the bytes per token: the same tokens in half the cache, where its size is configured
        half = max(_LEAST_CACHE_BYTES, settings.kv_cache_bytes // 2)
        changed = replace(settings, kv_cache_type=smaller, kv_cache_bytes=half, flash_attention=has_flash)
        yield f"keys and values as {smaller}", replace(rung, settings=changed)
    if settings.engine == "llamacpp" and settings.context_length > _LEAST_CONTEXT:
        context = max(_LEAST_CONTEXT, settings.context_length // 4)
        yield f"a context of {context} tokens", replace(rung, settings=replace(settings, context_length=context))
    if settings.engine != "llamacpp" and settings.kv_cache_bytes > _LEAST_CACHE_BYTES:
        cache = max(_LEAST_CACHE_BYTES, settings.kv_cache_bytes // 4)
        what = f"a KV cache of {format_bytes(cache)}: a shorter context, or fewer requests at a time"
        yield what, replace(rung, settings=replace(settings, kv_cache_bytes=cache))
    if settings.max_sequences > _LEAST_SEQUENCES:
        fewer = max(_LEAST_SEQUENCES, settings.max_sequences // 4)
        yield f"{fewer} sequences at a time", replace(rung, settings=replace(settings, max_sequences=fewer))
    if settings.step_tokens > _LEAST_STEP_TOKENS:
        step = max(_LEAST_STEP_TOKENS, settings.step_tokens // 4)
        yield f"steps of {step} tokens", replace(rung, settings=replace(settings, step_tokens=step))
    for bits in _LOWER_BITS:
        num_bytes = rung.shape.num_weights * bits / 8
        if num_bytes < 0.9 * rung.weight_bytes.value:
            weights = Figure(num_bytes, "B", FigureSource.ROOFLINE, f"{rung.shape.num_weights} weights x {bits} bits")
            yield f"a variant of {bits} bits per weight", replace(rung, weight_bytes=weights)


def _merged(together: RungToPlan, rung: RungToPlan, changed: RungToPlan) -> RungToPlan:
    """`together` with what `changed` does differently from `rung`."""
    names = rung.settings.__dataclass_fields__
    different = {
        name: getattr(changed.settings, name)
        for name in names
        if getattr(changed.settings, name) != getattr(rung.settings, name)
    }
    weights = min(together.weight_bytes, changed.weight_bytes, key=lambda figure: figure.value)
    if "kv_cache_bytes" in different:
        different["kv_cache_bytes"] = min(different["kv_cache_bytes"], together.settings.kv_cache_bytes)
    return replace(together, weight_bytes=weights, settings=replace(together.settings, **different))


def _other_hardware(
    rung: RungToPlan, machine: MachineToPlan, accelerators: Sequence[Accelerator]
) -> Iterator[tuple[str, Fit]]:
    """More GPUs of this kind per replica, and the smallest other one that is large enough."""
    if not rung.settings.is_gpu or machine.accelerator is None:
        return
    for parts in (2, 4, 8, 16):
        if parts <= rung.settings.tensor_parallel or rung.shape.num_heads % parts:
            continue
        split = replace(rung, settings=replace(rung.settings, tensor_parallel=parts))
        after = fit(split, replace(machine, num_accelerators=max(parts, machine.num_accelerators)))
        if after.is_fitting:
            yield f"tensor parallel over {parts} x {machine.accelerator.name}", after
            break
    for other in sorted(accelerators, key=lambda one: (one.memory_bytes, one.id)):
        if other.memory_bytes > machine.accelerator.memory_bytes:
            after = fit(rung, replace(machine, accelerator=other))
            if after.is_fitting:
                yield f"{other.name} in place of {machine.accelerator.name}", after
                break


def _change(what: str, after: Fit) -> Change:
    return Change(what, after.needed.value, after.missing_bytes)


def _share(memory: Figure) -> Figure:
    value = MEMORY_SHARE * memory.value
    return Figure(value, "B", memory.source, f"{MEMORY_SHARE:.0%} of {format_bytes(memory.value)} ({memory.how})")
