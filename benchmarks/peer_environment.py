"""Virtual environments for programs that a benchmark compares with: made once, outside the project's own environment.

Not toolchains: nothing that Lightship serves or reports depends on them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# below a folder that the repository ignores
DEFAULT_FOLDER = ROOT / "build" / "peers"
# Installed by itself before anything that depends on it, so that no other build of it is chosen.
TORCH = "torch==2.13.0"


def ensure_environment(folder: Path, requirements: Sequence[str], *, needs_torch: bool = True) -> Path:
    """The interpreter of an environment with the requirements; made when it is not there, or another one.

    Effects: creates `folder`; the requirements are noted in it last, so a stopped installation is continued.
    """
    python, note = folder / "bin" / "python", folder / "requirements.txt"
    first = [TORCH] if needs_torch else []
    wanted = "".join(f"{requirement}\n" for requirement in (*first, *requirements))
    if note.exists() and note.read_text("utf-8") == wanted:
        return python
    print(f"making {folder} (once, some minutes) ...", file=sys.stderr, flush=True)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    for step in ([first] if first else []) + [[*first, *requirements]]:
        subprocess.run([*pip, *step], check=True, stdout=sys.stderr)
    note.write_text(wanted, encoding="utf-8")
    return python
