"""Job `convert_openvino`: a Hugging Face folder in, an OpenVINO folder (model, tokenizer, detokenizer) out.

Runs in the toolchain `openvino-convert`; the conversion is optimum-intel's.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lightship.errors import ToolchainError


def main(job_path: Path) -> None:
    """Entry point. Job fields: `checkpoint`, `output` (an existing empty folder), `weight_format` (fp16 or fp32)."""
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    from optimum.exporters.openvino import main_export
    from optimum.intel import OVConfig

    checkpoint, output = Path(job["checkpoint"]), Path(job["output"])
    main_export(
        str(checkpoint),
        output=str(output),
        task="text-generation-with-past",
        ov_config=OVConfig(dtype=job["weight_format"]),
        stateful=True,
        convert_tokenizer=True,
        trust_remote_code=False,
        library_name="transformers",
        local_files_only=True,
    )
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        if not (output / name).exists() and (checkpoint / name).exists():
            shutil.copyfile(checkpoint / name, output / name)
    missing = [n for n in ("openvino_model.xml", "openvino_tokenizer.xml") if not (output / n).exists()]
    if missing:
        raise ToolchainError(f"the conversion wrote no {' and no '.join(missing)}")
