"""Two toolchains that cannot share an environment, in one pipeline of one command.

    python benchmarks/conflicting_toolchains.py

Runs `lightship up --no-serve` for a recipe that llm-compressor makes and vLLM serves: their locks pin different
versions of compressed-tensors. Prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lightship.artifacts.home import data_home
from lightship.compression.toolchains.definitions import COMPRESS, VLLM

SHARED = "compressed-tensors"


def main() -> int:
    """Prints the verdict; 1 when the command fails or the pins agree."""
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        (home / "toolchains").symlink_to(data_home(os.environ) / "toolchains")
        command = [sys.executable, "-m", "lightship", "up", "--no-serve"]
        for setting in ("variants=[fp16,w8a8]", "engines.vllm={}", "measurement.protocol=screening"):
            command += ["--set", setting]
        result = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "LIGHTSHIP_HOME": temporary, "COLUMNS": "200"},
            check=False,
        )
    pins = {toolchain.name: toolchain.version_of(SHARED) for toolchain in (COMPRESS, VLLM)}
    is_met = result.returncode == 0 and "w8a8@vllm" in result.stdout and len(set(pins.values())) == len(pins)
    line = {
        "number": "6",
        "claim": f"one command makes w8a8 and serves it; {SHARED} of the two toolchains",
        "figure": ", ".join(f"{name} {version}" for name, version in pins.items()) + f", exit code {result.returncode}",
        "target": "different pins, measured on vLLM",
        "is_met": is_met,
    }
    print(json.dumps(line))
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
