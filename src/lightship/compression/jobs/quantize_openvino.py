"""Job `quantize_openvino`: an OpenVINO folder in, the same network with compressed weights out (NNCF, data-free).

int8 is asymmetric per channel; int4 is symmetric by groups, embeddings and head stay int8. Weight-only: the
arithmetic stays 16-bit.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `source`, `files` (what makes the model, paths below `source`), `output` (an existing empty folder),
    `scheme`, `group_size` (int4).
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    import nncf
    import openvino

    source, output = Path(job["source"]), Path(job["output"])
    model = openvino.Core().read_model(source / "openvino_model.xml")
    if job["scheme"] == "int8":
        options = {"mode": nncf.CompressWeightsMode.INT8_ASYM}
    else:
        group_size = int(job["group_size"])
        options = {"mode": nncf.CompressWeightsMode.INT4_SYM, "group_size": group_size, "ratio": 1.0}
    compressed = nncf.compress_weights(model, **options)
    openvino.save_model(compressed, output / "openvino_model.xml", compress_to_fp16=False)
    for name in job["files"]:
        if name not in {"openvino_model.xml", "openvino_model.bin"}:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, output / name)
