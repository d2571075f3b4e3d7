"""What a search found, put side by side as `up` does: candidates, ladder, report; and a spec that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from lightship.artifacts.disk import write_durably
from lightship.cli.assess import Assessment, MeasuredPair, assess_pairs, write_report
from lightship.cli.optimize.measuring import Workbench
from lightship.cli.prepare import BuiltVariants
from lightship.compression.recipes import PRESETS
from lightship.compression.search.records import Candidate, SearchState
from lightship.compression.search.search import standing
from lightship.errors import UsageError
from lightship.ports.variants import Recipe


@dataclass(frozen=True)
class FoundVariants:
    """What was kept, assessed; `candidates` by the name that the assessment has for them."""

    built: BuiltVariants
    assessment: Assessment
    report_path: Path
    kept: tuple[Candidate, ...]


def assess_search(state: SearchState, workbench: Workbench, folder: Path) -> FoundVariants:
    """Everything that the search measured, with the ladder that may be made of what reached the floor.

    Raises: MeasurementError: nothing reaches the floor.
    Effects: writes the report into the folder.
    """
    now = standing(state)
    by_name = {one.candidate.name: one.candidate for one in state.setup.proposals}
    measured = [by_name[name] for name, known in now.known.items() if known.point is not None]
    pairs = [MeasuredPair(workbench.variant(one), workbench.measurer(one)) for one in measured]
    reference = MeasuredPair(workbench.variant(workbench.reference), workbench.measurer(workbench.reference))
    spec = workbench.spec.model_copy(update={"ladder": "auto"})
    assessment = assess_pairs(spec, pairs, reference, workbench.machine, workbench.around, command="lightship optimize")
    unique = {pair.variant.manifest.digest: pair.variant for pair in pairs}
    built = BuiltVariants(tuple(unique.values()), reference.variant)
    return FoundVariants(built, assessment, write_report(assessment, folder), tuple(by_name[name] for name in now.kept))


def check_new_file(path: Path | None) -> None:
    """Raises: UsageError: there is a file at `path`, which would be overwritten."""
    if path is not None and path.exists():
        raise UsageError("the file is there already", where=str(path), hint="Name another one, or remove it.")


def write_found_spec(path: Path, found: FoundVariants, workbench: Workbench) -> None:
    """A spec whose variants are those that were kept; `up` measures them again, for longer, and serves the ladder.

    A spec has one section of settings for each engine, so what was kept with changed settings stands in a comment.

    Raises: UsageError: the file is there already.
    Effects: writes the file.
    """
    check_new_file(path)
    plain = {one.recipe.name: one for one in (workbench.reference, *found.kept)}
    spec, engines = workbench.spec, {one.engine for one in plain.values()} - {"openvino"}
    varied = "".join(f"# kept with other settings, too: {one.name}\n" for one in found.kept if one.settings)
    content = {
        "model": {"name": spec.model.name, "source": str(spec.model.source)},
        "slo": spec.slo.model_dump(mode="json"),
        "quality": {"floor": spec.quality.floor},
        "variants": list(plain),
        "recipes": {name: _steps(one.recipe) for name, one in plain.items() if name not in PRESETS},
        "engines": {name: {} for name in sorted(engines)},
        "measurement": {
            "concurrencies": list(spec.measurement.concurrencies),
            "target_concurrency": spec.measurement.target_concurrency,
        },
    }
    text = f"# Written by `lightship optimize`: what it kept.\n{varied}" + yaml.safe_dump(
        {name: value for name, value in content.items() if value}, sort_keys=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, text.encode())


def _steps(recipe: Recipe) -> list[dict[str, dict[str, str | int | float | bool]]]:
    return [{step.kind: dict(step.options)} for step in recipe.steps]
