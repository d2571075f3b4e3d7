"""The table of feasibility as Markdown, for `docs/feasibility.md`."""

from __future__ import annotations

from lightship.compression.feasibility.support_table import (
    TITLES,
    Feature,
    Platform,
    Support,
    SupportTable,
    table_rows,
)

_COLUMNS = (
    Platform.AVX2,
    Platform.AVX512,
    Platform.AMX,
    Platform.ARM,
    Platform.CUDA,
    Platform.INTEL_GPU,
    Platform.NPU,
)
_HEADINGS = {
    Platform.AVX2: "AVX2 only",
    Platform.AVX512: "AVX-512",
    Platform.AMX: "AMX",
    Platform.ARM: "ARM",
    Platform.CUDA: "CUDA",
    Platform.INTEL_GPU: "Intel GPU",
    Platform.NPU: "NPU",
}


def render_table(table: SupportTable) -> str:
    """One Markdown table per engine, its sources below it as notes."""
    parts = []
    for engine, (title, version) in table.engines.items():
        rows = [(feature, cells) for name, feature, cells in table_rows(table) if name == engine]
        columns = [one for one in _COLUMNS if any(one in cells for _, cells in rows)]
        parts.append(_render_engine(f"{title} {version}", rows, columns))
        if sizes := table.cpu_head_sizes.get(engine):
            parts.append(f"Attention heads on a CPU may have {', '.join(map(str, sizes))} elements, and no other size.")
    return "\n\n".join(parts)


def _render_engine(title: str, rows: list[tuple[Feature, dict[Platform, Support]]], columns: list[Platform]) -> str:
    lines = [
        f"### {title}",
        "",
        "| " + " | ".join(["", *(_HEADINGS[one] for one in columns), "source"]) + " |",
        "|---|" + "---|" * (len(columns) + 1),
    ]
    for feature, cells in rows:
        words = [_cell(cells.get(one)) for one in columns]
        source = next(iter(cells.values())).source
        lines.append("| " + " | ".join([TITLES[feature], *words, source]) + " |")
    return "\n".join(lines)


def _cell(support: Support | None) -> str:
    if support is None:
        return "untested"
    return f"{support.verdict}: {support.how}" if support.how else str(support.verdict)
