"""Inputs that a network is watched on while it is compressed: texts, through the tokenizer that lies beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightship.compression.job_texts import read_job_texts, token_windows


def calibration_windows(folder: Path, texts_path: Path, *, num_windows: int, window_tokens: int) -> list[list[int]]:
    """Token ids, at most `num_windows` times `window_tokens`.

    Raises: ValueError: the texts do not fill a single window.
    """
    import openvino
    import openvino_tokenizers  # noqa: F401 - makes the operations of tokenizers known to OpenVINO

    tokenizer = openvino.Core().compile_model(folder / "openvino_tokenizer.xml", "CPU")

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer([text])["input_ids"][0].tolist()
        return ids

    return token_windows(read_job_texts(texts_path), encode, num_windows=num_windows, window_tokens=window_tokens)


def network_inputs(model: Any, windows: list[list[int]]) -> list[dict[str, Any]]:
    """What a stateful network takes for each window, from an empty state; inputs that it does not have are left out.

    Shapes: ids, mask and positions are (1, window_tokens), `beam_idx` is (1,).
    Raises: ValueError: it has an input that is not known here.
    """
    import numpy as np

    names = {name for port in model.inputs for name in port.names}
    samples = []
    for window in windows:
        ids = np.array([window], dtype=np.int64)
        known = {
            "input_ids": ids,
            "attention_mask": np.ones_like(ids),
            "position_ids": np.arange(ids.shape[1], dtype=np.int64)[None],
            "beam_idx": np.zeros(1, dtype=np.int32),
        }
        samples.append({name: value for name, value in known.items() if name in names})
    unknown = [sorted(port.names) for port in model.inputs if not port.names & {*samples[0]}]
    if unknown:
        raise ValueError(f"the network has inputs that calibration cannot fill: {unknown}")
    return samples
