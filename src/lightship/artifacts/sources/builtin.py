"""The model that ships in the package, and its distilled student."""

from __future__ import annotations

from pathlib import Path

from lightship.errors import CheckpointError

_FOLDER = Path(__file__).resolve().parents[1] / "builtin"

# Students by the model they were distilled from.
_STUDENTS: dict[str, tuple[str, ...]] = {"fairytales": ("fairytales-quarter",)}


def builtin_checkpoint(name: str) -> Path:
    """Folder of the built-in checkpoint `name`.

    Raises: CheckpointError: there is none of that name; the known ones are listed.
    """
    if name not in _STUDENTS:
        raise CheckpointError(
            f"there is no built-in model {name!r}", where="model.source", hint=f"Known: {', '.join(_STUDENTS)}."
        )
    return _FOLDER / name


def builtin_students(name: str) -> dict[str, Path]:
    """Checkpoint folders of the students distilled from the built-in model, by name."""
    return {student: _FOLDER / student for student in _STUDENTS.get(name, ())}
