"""Job `quantize_openvino`: an OpenVINO folder in, the same network compressed by NNCF out.

`int8` weights have one scale and zero point per channel; `int4` weights have a scale per group, while embeddings and
head stay int8. Both are weight-only: what the engine multiplies them with is its own choice. `int8-activations` also
quantizes the inputs of matrix products, each by one scale for the whole tensor that is fixed by calibration, so that
products run on 8-bit instructions; attention stays as it is.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from lightship.compression.openvino.inputs import calibration_windows, network_inputs
from lightship.compression.openvino.rotary import restore_tables

GRAPH, WEIGHTS = "openvino_model.xml", "openvino_model.bin"
_HEAD = r".*lm_head.*"


def main(job_path: Path) -> None:
    """Entry point.

    Job fields: `source`, `files` (what makes the model, paths below `source`), `output` (an existing empty folder),
    `scheme`, `mode` (sym, asym or null for the scheme's own). For int4: `group_size`, `ratio`, `methods`. For
    int8-activations: `smooth_quant_alpha`, `quantize_head`. Where texts are watched: `calibration` (JSON lines),
    `num_samples`, `sequence_tokens`.
    """
    job: dict[str, Any] = json.loads(job_path.read_text("utf-8"))
    import openvino

    source, output = Path(job["source"]), Path(job["output"])
    model = openvino.Core().read_model(source / GRAPH)
    dataset = None
    num_windows = 0
    if "calibration" in job:
        dataset, num_windows = _dataset(job, model)
    if job["scheme"] == "int8-activations":
        compressed = _quantize_activations(job, model, dataset, num_windows)
    else:
        compressed = _compress_weights(job, model, dataset, num_windows)
    openvino.save_model(compressed, output / GRAPH, compress_to_fp16=False)
    for name in job["files"]:
        if name not in {GRAPH, WEIGHTS}:
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, output / name)


def _dataset(job: dict[str, Any], model: Any) -> tuple[Any, int]:
    import nncf

    windows = calibration_windows(
        Path(job["source"]),
        Path(job["calibration"]),
        num_windows=job["num_samples"],
        window_tokens=job["sequence_tokens"],
    )
    note = f"{len(windows)} windows of {job['sequence_tokens']} tokens"
    if len(windows) < job["num_samples"]:
        note += f" (the texts have no more; {job['num_samples']} were asked for)"
    print(json.dumps({"event": "progress", "done": 0, "total": 1, "note": note}), flush=True)
    return nncf.Dataset(network_inputs(model, windows)), len(windows)


def _compress_weights(job: dict[str, Any], model: Any, dataset: Any, num_windows: int) -> Any:
    import nncf

    modes = nncf.CompressWeightsMode
    if job["scheme"] == "int8":
        return nncf.compress_weights(model, mode=modes.INT8_SYM if job["mode"] == "sym" else modes.INT8_ASYM)
    options: dict[str, Any] = {
        "mode": modes.INT4_ASYM if job["mode"] == "asym" else modes.INT4_SYM,
        "group_size": job["group_size"],
        "ratio": job["ratio"],
        **dict.fromkeys(job["methods"], True),
    }
    if dataset is not None:
        options |= {"dataset": dataset, "subset_size": num_windows}
    return nncf.compress_weights(model, **options)


def _quantize_activations(job: dict[str, Any], model: Any, dataset: Any, num_windows: int) -> Any:
    """The network with 8-bit products.

    Queries and keys are left alone: the engine replaces attention by its own, which drops what was put in front of it.
    Bias correction is off, because the layers of language models that are quantized here have none.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedSmoothQuantParameters

    parameters = nncf.AdvancedQuantizationParameters(
        disable_bias_correction=True,
        smooth_quant_alphas=AdvancedSmoothQuantParameters(matmul=job["smooth_quant_alpha"]),
    )
    presets = nncf.QuantizationPreset
    quantized = nncf.quantize(
        model,
        dataset,
        model_type=nncf.ModelType.TRANSFORMER,
        preset=presets.PERFORMANCE if job["mode"] == "sym" else presets.MIXED,
        subset_size=num_windows,
        ignored_scope=nncf.IgnoredScope(
            types=["ScaledDotProductAttention"], patterns=[] if job["quantize_head"] else [_HEAD]
        ),
        advanced_parameters=parameters,
    )
    restore_tables(quantized, model)
    return quantized
