"""OpenVINO, loaded with what a worker needs and not more, and the properties a config stands for."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from lightship.engines.openvino.config import OpenVinoWorkerConfig
from lightship.errors import EngineError

INSTALL_HINT = "Install it with `pip install 'lightship[local]'`."


def _leave_out_model_conversion() -> None:
    """Keeps `import openvino` from loading its model converter, which serving never uses.

    OpenVINO treats the converter as optional. Leaving it out saves about a third of the import time and keeps its
    telemetry package from being loaded at all.
    """
    sys.modules.setdefault("openvino.tools.ovc", None)  # type: ignore[arg-type]  # None makes the import fail


def load_genai() -> Any:
    """The module `openvino_genai`.

    Raises: EngineError: it is not installed.
    Effects: imports it; model conversion is not available in this process afterwards.
    """
    if importlib.util.find_spec("openvino_genai") is None:
        raise EngineError("OpenVINO GenAI is not installed", hint=INSTALL_HINT)
    _leave_out_model_conversion()
    import openvino_genai

    return openvino_genai


def load_openvino() -> Any:
    """The module `openvino`, with the same effects as `load_genai`."""
    if importlib.util.find_spec("openvino") is None:
        raise EngineError("OpenVINO is not installed", hint=INSTALL_HINT)
    _leave_out_model_conversion()
    import openvino

    return openvino


def installed_version() -> str:
    """Version of OpenVINO GenAI here.

    Raises: EngineError: it is not installed.
    """
    try:
        return version("openvino-genai")
    except PackageNotFoundError as error:
        raise EngineError("OpenVINO GenAI is not installed", hint=INSTALL_HINT) from error


def device_properties(config: OpenVinoWorkerConfig) -> dict[str, str | int]:
    """OpenVINO properties of the model's compilation; what is `auto` is left to the device."""
    properties: dict[str, str | int] = {}
    if config.precision != "auto":
        properties["INFERENCE_PRECISION_HINT"] = config.precision
    if config.kv_cache_precision != "auto":
        properties["KV_CACHE_PRECISION"] = config.kv_cache_precision
        if config.kv_cache_precision == "f32":  # attention in 16 bits does not read it: processors that prefer it fail
            properties.setdefault("INFERENCE_PRECISION_HINT", "f32")
    if config.dynamic_quantization_group_size is not None:
        properties["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = config.dynamic_quantization_group_size
    if config.num_threads > 0:
        properties["INFERENCE_NUM_THREADS"] = config.num_threads
    return properties
