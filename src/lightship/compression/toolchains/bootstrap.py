"""Starts a job inside a toolchain: `python -I bootstrap.py KIND JOB.json`.

The toolchain has its own packages and must not see the host's. So only the package `lightship` itself is made
importable here, from the folder this file lies in; nothing else of the host's site-packages comes along.
"""

import importlib
import importlib.util
import sys
from pathlib import Path


def _make_lightship_importable() -> None:
    package = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "lightship", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package at {package}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lightship"] = module
    spec.loader.exec_module(module)


def main() -> None:
    """Runs job KIND on the file; exceptions end the process with a traceback in its log."""
    kind, job_path = sys.argv[1:]
    _make_lightship_importable()
    job_module = importlib.import_module(f"lightship.compression.jobs.{kind}")
    job_module.main(Path(job_path))


if __name__ == "__main__":
    main()
