"""Imports point down, siblings do not touch, and there are no cycles."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

PACKAGE = "lightship"
SRC = Path(__file__).resolve().parents[2] / "src" / PACKAGE
LAYERS = [  # lowest first; names in one set may not import each other
    {"errors", "units"},
    {"spec", "wire"},
    {"ports", "observability"},
    {"artifacts", "serving", "transport", "scaling", "kubernetes"},
    {"compression", "evaluation", "engines", "planning", "deploy"},
    {"gateway"},
    {"simulation"},
    {"cli", "console", "testing"},
]
HEIGHT = {name: level for level, layer in enumerate(LAYERS) for name in layer}
FORBIDDEN = {("gateway", name) for name in LAYERS[4] - {"engines"}}


def imported_modules(tree: ast.AST, path: Path, *, source: Path) -> Iterator[tuple[int, str]]:
    """(line, dotted module below the package) of absolute, relative and lazy imports."""
    here = [PACKAGE, *path.relative_to(source).parent.parts]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            parts = base + (node.module.split(".") if node.module else [])
            if parts[0] == PACKAGE:
                yield from ((node.lineno, ".".join([*parts[1:], alias.name])) for alias in node.names)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
            yield from ((node.lineno, n.removeprefix(PACKAGE + ".")) for n in names if n.startswith(PACKAGE + "."))


def layer_violations(source: Path) -> list[str]:
    """Every import under `source` that points up or sideways, and every file without a layer."""
    found = []
    for path in sorted(source.rglob("*.py")):
        me = path.relative_to(source).parts[0].removesuffix(".py")
        if me not in HEIGHT:
            if me not in {"__init__", "__main__"}:
                found.append(f"{path.name}: {me!r} has no layer")
            continue
        for line, module in imported_modules(ast.parse(path.read_text("utf-8")), path, source=source):
            other = module.split(".")[0]
            if other != me and other in HEIGHT and (HEIGHT[other] >= HEIGHT[me] or (me, other) in FORBIDDEN):
                found.append(f"{path.name}:{line}: {me} may not import {other}")
    return found


def module_graph(source: Path) -> dict[str, set[str]]:
    """Modules and the modules they import, at run time or lazily."""
    modules = {_dotted(path, source): path for path in source.rglob("*.py")}
    graph: dict[str, set[str]] = {}
    for name, path in modules.items():
        imported = imported_modules(ast.parse(path.read_text("utf-8")), path, source=source)
        targets = {next((m for m in (mod, mod.rpartition(".")[0]) if m in modules), "") for _, mod in imported}
        graph[name] = targets - {name, ""}
    return graph


def _dotted(path: Path, source: Path) -> str:
    parts = path.relative_to(source).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_layers_source_imports_point_down() -> None:
    assert layer_violations(SRC) == []


def test_layers_upward_and_sideways_imports_are_found(tmp_path: Path) -> None:
    (tmp_path / "wire").mkdir()
    (tmp_path / "wire" / "a.py").write_text("from lightship.spec import b\n")
    (tmp_path / "errors.py").write_text("def f():\n    from .ports import clock\n")
    (tmp_path / "stray.py").write_text("")
    assert layer_violations(tmp_path) == [
        "errors.py:2: errors may not import ports",
        "stray.py: 'stray' has no layer",
        "a.py:1: wire may not import spec",
    ]


def test_layers_modules_have_no_import_cycle() -> None:
    try:
        TopologicalSorter(module_graph(SRC)).prepare()
    except CycleError as error:
        raise AssertionError(f"import cycle: {error.args[1]}") from error
