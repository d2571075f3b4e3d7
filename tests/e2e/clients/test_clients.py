"""The client libraries people use, each in an environment of their own, against a real gateway process.

The checks themselves are in `suite/` and run where the libraries are.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

pytestmark = pytest.mark.toolchain

REQUIREMENTS = ("openai==3.57.0", "litellm==1.110.2", "langchain-openai==1.7.4", "pytest==9.1.1")
SUITE = Path(__file__).parent / "suite"


@pytest.mark.parametrize("library", ["openai", "litellm", "langchain"])
def test_client_library_works_with_the_gateway(
    library: str,
    environments: Callable[[str, Sequence[str]], Path],
    client_environment: dict[str, str],
    tmp_path: Path,
) -> None:
    python = environments("clients", REQUIREMENTS)
    command = [str(python), "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", str(SUITE), "--noconftest", "-p"]
    command += ["no:cacheprovider", "-W", "ignore", str(SUITE / f"check_{library}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=client_environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout
