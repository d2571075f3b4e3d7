"""Does the search beat the best single preset? Hypervolume over (quality, bytes, goodput), within a stated time.

    python benchmarks/search_volume.py [--time 40m] [--engines openvino,vllm,llamacpp]

Runs `lightship optimize builtin:fairytales` in a data directory of its own (toolchains are shared), so that nothing is
found measured, and compares the frontier's volume with that of the best preset alone. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lightship.artifacts.home import data_home


def main() -> int:
    """Prints the verdict; 1 when the search is no better."""
    parser = argparse.ArgumentParser(description="The search beside the best preset.")
    parser.add_argument("--time", default="40m")
    parser.add_argument("--engines", default="openvino,vllm,llamacpp")
    parser.add_argument("--keep", type=Path, help="data directory to use and keep; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = args.keep or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        if not (home / "toolchains").exists():
            (home / "toolchains").symlink_to(data_home(os.environ) / "toolchains")
        command = [sys.executable, "-m", "lightship", "optimize", "builtin:fairytales", "--floor", "0.97", "--json"]
        command += ["--slo", "ttft=400ms,tpot=40ms", "--time", args.time, "--engines", args.engines]
        environment = {**os.environ, "LIGHTSHIP_HOME": str(home)}
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=False)
        record = json.loads(result.stdout)
    volume = record["hypervolume"]
    fates = [one["decision"]["fate"] for one in record["candidates"] if one["decision"]]
    ratio = volume["frontier"] / volume["best_single"]
    line = {
        "number": "5",
        "claim": f"optimize within {args.time}: volume of its frontier over that of the best single preset",
        "figure": (
            f"{ratio:.2f} times ({volume['frontier']:.3f}, {volume['best_name']} alone {volume['best_single']:.3f}), "
            f"{len(record['frontier'])} kept of {len(fates)} candidates, {record['spent_s'] / 60:.0f} minutes"
        ),
        "target": "above 1",
        "is_met": ratio > 1 and record["spent_s"] <= 1.1 * record["budget"]["time_budget_s"],
    }
    print(json.dumps(line))
    return 0 if line["is_met"] else 1


if __name__ == "__main__":
    sys.exit(main())
