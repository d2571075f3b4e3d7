"""The decision record of a search, for people (Markdown) and for programs (JSON). Pure; also of a search under way."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from lightship.compression.search.judging import Known, share_words
from lightship.compression.search.records import (
    Budget,
    Candidate,
    Decision,
    Fate,
    Remedy,
    SearchState,
    Share,
)
from lightship.compression.search.search import Standing, VolumeComparison, compare_volumes, standing
from lightship.units import format_bytes, format_duration

# Changes when a reader of older records would misunderstand newer ones.
SCHEMA = "lightship-search-record/1"
_NOTHING = "-"
# In the order in which people want to read them.
_FATE_ORDER = (Fate.KEPT, Fate.REJECTED, Fate.NOT_REACHED)
_TITLES = {Fate.KEPT: "Kept", Fate.REJECTED: "Rejected", Fate.NOT_REACHED: "Not reached"}


def record_data(state: SearchState) -> dict[str, Any]:
    """The record as plain data: setup, figures and decision of each candidate, frontier, volumes, journal."""
    now, volumes = standing(state), compare_volumes(state)
    return {
        "schema": SCHEMA,
        "model": state.setup.model,
        "machine": state.setup.machine,
        "is_over": now.is_over,
        "spent_s": now.spent_s,
        "budget": msgspec.to_builtins(state.setup.budget),
        "rules": msgspec.to_builtins(state.setup.rules),
        "reference": state.setup.reference,
        "frontier": list(now.kept),
        "hypervolume": None if volumes is None else msgspec.to_builtins(volumes),
        "candidates": [
            {
                **msgspec.to_builtins(proposal.candidate),
                "figures": msgspec.to_builtins(now.known[proposal.candidate.name]),
                "roofline": msgspec.to_builtins(proposal.roofline),
                "notes": list(proposal.feasibility.notes),
                "decision": _decision_data(now.decisions.get(proposal.candidate.name)),
            }
            for proposal in state.setup.proposals
        ],
        "journal": msgspec.to_builtins(state.journal),
    }


def _decision_data(decision: Decision | None) -> dict[str, str] | None:
    if decision is None:
        return None
    return {"fate": decision.fate, "stage": decision.stage, "reason": decision.reason, "remedy": decision.remedy}


def render_record_json(state: SearchState) -> str:
    """The record as JSON."""
    return json.dumps(record_data(state), indent=2, sort_keys=True) + "\n"


def render_record(state: SearchState) -> str:
    """The record as Markdown: result, budget, table of figures, a paragraph for each candidate, what to do next."""
    now = standing(state)
    sections = [
        f"# Search for the best variants of {state.setup.model or 'the model'}",
        _render_result(state, now),
        _render_budget(state, now),
        _render_figures(state, now),
        _render_decisions(state, now),
        _render_next(state, now),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _render_result(state: SearchState, now: Standing) -> str:
    if not now.is_over:
        return (
            f"Not finished: {len(now.decisions)} of {len(state.setup.proposals)} candidates are decided, the search is "
            f"at stage *{now.stage}* after {format_duration(now.spent_s)}."
        )
    if not now.kept:
        return f"**Nothing was kept.** {now.actions[0].reason}"
    lines = [f"**Kept {len(now.kept)} of {len(state.setup.proposals)} candidates**, best quality first:", ""]
    for name in _by_quality(now):
        lines.append(f"- `{name}`: {now.known[name].words}")
    if (volumes := compare_volumes(state)) is not None and volumes.best_name is not None:
        lines += ["", _volume_words(volumes)]
    return "\n".join(lines)


def _by_quality(now: Standing) -> list[str]:
    def recovery(name: str) -> float:
        found = now.known[name].recovery
        return found.value if found is not None else 0.0

    return sorted(now.kept, key=lambda name: -recovery(name))


def _volume_words(volumes: VolumeComparison) -> str:
    frame = volumes.frame
    ratio = f", {volumes.frontier / volumes.best_single:.2f} times as much" if volumes.best_single > 0 else ""
    return (
        f"Together they cover a hypervolume of {volumes.frontier:.4g} over (quality, bytes, goodput); the best single "
        f"one, `{volumes.best_name}`, covers {volumes.best_single:.4g}{ratio}. Volume counts from a recovery of "
        f"{frame.recovery:.2%} and {format_bytes(frame.num_bytes)}; the unit of goodput is the reference's "
        f"{frame.unit_goodput_per_s:.3g} requests/s."
    )


def _render_budget(state: SearchState, now: Standing) -> str:
    budget = state.setup.budget
    rows = [
        ("machine", state.setup.machine or _NOTHING),
        ("reference", f"`{state.setup.reference}`"),
        ("largest variant", format_bytes(budget.max_bytes) if budget.max_bytes is not None else "no limit"),
        ("quality floor", f"{budget.quality_floor:.2%} of the reference's, by the lower bound"),
        ("promise", _promise_words(budget)),
        ("load", _load_words(budget)),
        ("time", f"{format_duration(now.spent_s)} of {format_duration(budget.time_budget_s)}"),
        ("quality decided by", "tasks, paired with the reference" if state.setup.rules.has_tasks else "held-out text"),
    ]
    return "\n".join(["## Asked for", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _promise_words(budget: Budget) -> str:
    parts = [
        f"{name} at most {value:g} ms"
        for name, value in (("TTFT", budget.ttft_ms), ("TPOT", budget.tpot_ms))
        if value is not None
    ]
    return ", ".join(parts) or "none: every request that was answered counts"


def _load_words(budget: Budget) -> str:
    rate = f", {budget.rate_per_s:g} requests/s wanted" if budget.rate_per_s is not None else ""
    return f"{budget.concurrency} requests at once{rate}"


def _render_figures(state: SearchState, now: Standing) -> str:
    lines = [
        "## Figures",
        "",
        "| candidate | end | size | recovery, text | KL, nats | top-1 | recovery, tasks | good requests/s | TTFT, ms "
        "| TPOT, ms | memory |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for proposal in state.setup.proposals:
        name = proposal.candidate.name
        known = now.known[name]
        if known.num_bytes is not None:
            lines.append(_figure_row(name, known, now.decisions.get(name)))
    return "\n".join(lines) if len(lines) > 4 else ""


def _figure_row(name: str, known: Known, decision: Decision | None) -> str:
    quality, speed, tasks = known.quality, known.speed, known.tasks
    cells = [
        f"`{name}`",
        decision.fate if decision is not None else "open",
        format_bytes(known.num_bytes) if known.num_bytes is not None else _NOTHING,
        _share(quality.recovery if quality else None),
        _number(quality.kl_nats if quality else None, "{:.3g}"),
        _number(quality.top1_agreement if quality else None, "{:.1%}"),
        _share(tasks.recovery if tasks else None),
        _number(speed.goodput_per_s.value if speed else None, "{:.3g}"),
        _number(speed.ttft_ms if speed else None, "{:.3g}"),
        _number(speed.tpot_ms if speed else None, "{:.3g}"),
        format_bytes(speed.memory_bytes) if speed and speed.memory_bytes is not None else _NOTHING,
    ]
    return "| " + " | ".join(cells) + " |"


def _share(share: Share | None) -> str:
    return _NOTHING if share is None else share_words(share)


def _number(value: float | None, form: str) -> str:
    return _NOTHING if value is None else form.format(value)


def _render_decisions(state: SearchState, now: Standing) -> str:
    parts = ["## Why each one lived or died"]
    for fate in _FATE_ORDER:
        of_fate = [one for one in state.setup.proposals if _fate(now, one.candidate.name) is fate]
        if of_fate:
            parts.append(f"### {_TITLES[fate]}")
        for proposal in of_fate:
            decision = now.decisions[proposal.candidate.name]
            notes = "".join(f" Note: {note}." for note in proposal.feasibility.notes)
            parts.append(
                f"**{proposal.candidate.name}** ({_steps_words(proposal.candidate)}; decided at *{decision.stage}*). "
                f"{decision.reason}{notes}"
            )
    return "\n\n".join(parts) if len(parts) > 1 else ""


def _fate(now: Standing, name: str) -> Fate | None:
    decision = now.decisions.get(name)
    return decision.fate if decision is not None else None


def _steps_words(candidate: Candidate) -> str:
    steps = []
    for step in candidate.recipe.steps:
        options = ", ".join(f"{key} {value}" for key, value in step.options.items())
        steps.append(f"{step.kind} {options}".strip())
    return ", then ".join(steps)


def _render_next(state: SearchState, now: Standing) -> str:
    if not now.is_over:
        return ""
    advice = [*_advice_on_rate(state, now), *_advice_on_time(now), *_advice_on_quality(now)]
    if not now.kept:
        advice.append("Allow more bytes, a lower floor or a slower promise: nothing met all of them.")
    return "\n".join(["## What to do next", "", *(f"- {one}" for one in advice)]) if advice else ""


def _advice_on_rate(state: SearchState, now: Standing) -> list[str]:
    rate = state.setup.budget.rate_per_s
    if not now.kept:
        return []
    if rate is None:
        return ["Serve them as a ladder: the first as long as the load allows, the faster ones in a crowd."]
    carrying = [name for name in _by_quality(now) if _goodput(now, name) >= rate]
    if carrying:
        return [f"Serve `{carrying[0]}`: of those that carry {rate:g} requests/s on one replica it keeps most quality."]
    fastest = max(now.kept, key=lambda name: _goodput(now, name))
    replicas = -(-rate // _goodput(now, fastest))
    return [
        f"No variant carries {rate:g} requests/s on one replica; `{fastest}`, the fastest, would need {replicas:.0f} "
        "of them."
    ]


def _goodput(now: Standing, name: str) -> float:
    speed = now.known[name].speed
    return speed.goodput_per_s.value if speed is not None else 0.0


def _advice_on_time(now: Standing) -> list[str]:
    late = [one.candidate for one in now.decisions.values() if one.remedy is Remedy.TIME]
    if not late:
        return []
    names = ", ".join(f"`{name}`" for name in late[:3]) + (f" and {len(late) - 3} more" if len(late) > 3 else "")
    return [f"Give the search more time: it did not reach {names}. What was found so far is kept."]


def _advice_on_quality(now: Standing) -> list[str]:
    open_ends = [one.candidate for one in now.decisions.values() if one.remedy is Remedy.ITEMS]
    if not open_ends:
        return []
    names = ", ".join(f"`{name}`" for name in open_ends[:3])
    return [f"Evaluate more items: {names} may reach the floor, and the items so far cannot tell."]
