"""Looks at a checkpoint before any work is spent on it: is it complete, safe and of a kind that can be served?

Nothing here reads weights apart from hashing them; whether they are finite is asked before something is made of them
(`finite_weights.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lightship.artifacts.architectures import CONVERTIBLE_ARCHITECTURES, nearest_architectures
from lightship.artifacts.digest import DigestCache, content_digest, file_entries, file_sha256
from lightship.artifacts.file_rules import (
    GGUF_SUFFIX,
    SAFETENSORS_SUFFIX,
    check_not_pickle,
    is_code_name,
    is_content,
    is_pickle_name,
)
from lightship.artifacts.gguf_header import read_gguf_header
from lightship.artifacts.manifest import MANIFEST_NAME
from lightship.artifacts.model_config import (
    ModelConfig,
    check_no_remote_code,
    read_json_object,
    read_model_config,
)
from lightship.artifacts.openvino_ir import MODEL_GRAPH, TOKENIZER_GRAPHS, read_ir
from lightship.artifacts.packed_weights import count_quantized_weights
from lightship.artifacts.safetensors_header import TensorEntry, read_safetensors_header
from lightship.errors import CheckpointError, UnsafeCheckpointError, UnsupportedModelError
from lightship.ports.variants import FileEntry, WeightFormat

CONFIG_NAME, TOKENIZER_NAME, INDEX_NAME = "config.json", "tokenizer.json", "model.safetensors.index.json"
GGUF_NAME = "model.gguf"
_TOKENIZER_CONFIG, _CHAT_TEMPLATES = "tokenizer_config.json", ("chat_template.jinja", "chat_template.json")
# Masks and position indices that some checkpoints store are not parameters.
_NOT_PARAMETERS = frozenset({"BOOL", "I64", "U64"})
_AGAIN = "Download or copy the checkpoint again."


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that passed the checks.

    Args:
        folder: Absolute path.
        digest: `sha256:<hex>` over `files`.
        num_parameters: Elements of the stored weights; a tied matrix counts once.
        weight_bytes: Bytes of tensors, or of the network's constants.
        dtypes: Element types of the weights, in the format's own names, sorted.
        files: Everything that makes the model, and nothing else that lies in the folder. Copy these to copy the model.
    """

    folder: Path
    digest: str
    architecture: str
    model_type: str
    num_parameters: int
    weight_bytes: int
    dtypes: tuple[str, ...]
    context_length: int
    vocab_size: int
    num_layers: int
    hidden_size: int
    num_kv_heads: int
    head_dim: int
    has_chat_template: bool
    weight_format: WeightFormat
    files: tuple[FileEntry, ...]


@dataclass(frozen=True)
class _Weights:
    weight_format: WeightFormat
    num_parameters: int
    weight_bytes: int
    dtypes: tuple[str, ...]


def inspect_checkpoint(folder: Path, *, cache: DigestCache | None = None) -> Checkpoint:
    """The checkpoint in `folder`: safetensors in Hugging Face layout, an OpenVINO folder, or `model.gguf`.

    A symbolic link to a file counts as the file, because caches of hubs are made of links.

    Args:
        cache: Remembers digests of files from an earlier look; without it every file is hashed now.

    Raises:
        UnsafeCheckpointError: only pickled weights, or code that travels with the checkpoint.
        UnsupportedModelError: an architecture that cannot be converted.
        CheckpointError: something is missing, damaged or truncated.
    """
    folder = folder.absolute()
    if not folder.is_dir():
        kind = "is not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(f"the checkpoint folder {kind}", where=str(folder), hint="Check the path in the spec.")
    if (folder / MODEL_GRAPH).exists():
        weights = _check_openvino(folder)
    else:
        weights = _check_gguf(folder) if (folder / GGUF_NAME).exists() else _check_safetensors(folder)
    config = read_model_config(folder / CONFIG_NAME)
    files = file_entries(folder, _content(folder), sha256=cache.sha256 if cache is not None else file_sha256)
    if cache is not None:
        cache.save()
    return Checkpoint(
        folder=folder,
        digest=content_digest(files),
        files=files,
        has_chat_template=_has_chat_template(folder),
        **vars(weights),
        **vars(config),
    )


def _check_openvino(folder: Path) -> _Weights:
    """Checks a ready-made OpenVINO folder. Its `auto_map` is not refused: the engine never looks at it."""
    summary = read_ir(folder / MODEL_GRAPH)
    for name in TOKENIZER_GRAPHS:
        read_ir(folder / name)
    for name in (MODEL_GRAPH, *TOKENIZER_GRAPHS):
        check_not_pickle((folder / name).with_suffix(".bin"))
    return _Weights(WeightFormat.OPENVINO_IR, summary.num_parameters, summary.weight_bytes, summary.element_types)


def _check_gguf(folder: Path) -> _Weights:
    """Checks `model.gguf`, which holds weights and tokenizer; `config.json` beside it says the model's shape."""
    for path in folder.iterdir():
        if path.suffix == SAFETENSORS_SUFFIX:
            hint = f"Move {GGUF_NAME} or the safetensors to a folder of its own."
            raise CheckpointError(f"the folder holds both {GGUF_NAME} and {path.name}", where=str(folder), hint=hint)
    check_not_pickle(folder / GGUF_NAME)
    header = read_gguf_header(folder / GGUF_NAME)
    if not header.tensors:
        raise CheckpointError("the GGUF file holds no weights", where=str(folder / GGUF_NAME), hint=_AGAIN)
    dtypes = tuple(sorted({tensor.dtype for tensor in header.tensors}))
    return _Weights(WeightFormat.GGUF, header.num_parameters, header.weight_bytes, dtypes)


def _check_safetensors(folder: Path) -> _Weights:
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    _check_weights_are_safe(folder, names)
    config = read_model_config(folder / CONFIG_NAME)
    _check_architecture(config, folder)
    if not (folder / TOKENIZER_NAME).is_file():
        hint = "Save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(FOLDER)."
        raise CheckpointError(f"{TOKENIZER_NAME} is missing", where=str(folder), hint=hint)
    read_json_object(folder / TOKENIZER_NAME)
    tensors = _read_shards(folder)
    parameters = [tensor for tensor in tensors if tensor.dtype not in _NOT_PARAMETERS]
    if not parameters:
        raise CheckpointError("the checkpoint holds no weights", where=str(folder), hint=_AGAIN)
    weight_bytes = sum(tensor.num_bytes for tensor in tensors)
    counted = count_quantized_weights(parameters, read_json_object(folder / CONFIG_NAME))
    if counted is not None:
        return _Weights(WeightFormat.SAFETENSORS, counted.num_parameters, weight_bytes, counted.dtypes)
    return _Weights(
        WeightFormat.SAFETENSORS,
        sum(tensor.num_elements for tensor in parameters),
        weight_bytes,
        tuple(sorted({tensor.dtype for tensor in parameters})),
    )


def _check_weights_are_safe(folder: Path, names: list[str]) -> None:
    """Refuses folders without safetensors and folders with code; pickles beside safetensors are never read."""
    if not any(name.endswith(SAFETENSORS_SUFFIX) for name in names) and not (folder / INDEX_NAME).exists():
        pickles = [name for name in names if is_pickle_name(name)]
        if pickles:
            raise UnsafeCheckpointError(
                "the weights are pickled, and a pickle runs code when it is read",
                where=str(folder / pickles[0]),
                hint="Use a revision with safetensors, or convert them on a machine you can afford to lose.",
            )
        if any(name.endswith(GGUF_SUFFIX) for name in names):
            hint = f"Name the file {GGUF_NAME} and put the config.json of the model beside it."
            raise CheckpointError(f"a GGUF checkpoint is a folder with {GGUF_NAME}", where=str(folder), hint=hint)
        if (folder / CONFIG_NAME).is_file():
            hint = "Weights are expected as *.safetensors in this folder."
            raise CheckpointError("the folder holds no weights", where=str(folder), hint=hint)
    for name in (CONFIG_NAME, _TOKENIZER_CONFIG):
        check_no_remote_code(folder / name)
    for name in names:
        if is_code_name(name):
            raise UnsafeCheckpointError(
                "the checkpoint brings code of its own, which is never run",
                where=str(folder / name),
                hint="If transformers knows this architecture by itself, remove the file from a copy of the folder.",
            )


def _check_architecture(config: ModelConfig, folder: Path) -> None:
    if config.architecture not in CONVERTIBLE_ARCHITECTURES:
        nearest = ", ".join(nearest_architectures(config.architecture))
        raise UnsupportedModelError(
            f"architecture {config.architecture!r} cannot be converted for the OpenVINO engine",
            where=str(folder / CONFIG_NAME),
            hint=f"The nearest of {len(CONVERTIBLE_ARCHITECTURES)} known ones: {nearest}.",
        )


def shard_paths(folder: Path) -> list[Path]:
    """The safetensors files that hold the model: with an index those that it lists, which may not be there.

    Raises: CheckpointError: the index is not what the format asks for.
    """
    where = _weight_map(folder)
    if where is not None:
        return [folder / name for name in sorted(set(where.values()))]
    return sorted(path for path in folder.iterdir() if path.is_file() and path.name.endswith(SAFETENSORS_SUFFIX))


def _read_shards(folder: Path) -> list[TensorEntry]:
    """Tensors of all shards; with an index, exactly those it lists, each in the shard it says."""
    where = _weight_map(folder)
    tensors: dict[str, TensorEntry] = {}
    for path in shard_paths(folder):
        if not path.is_file():
            index = folder / INDEX_NAME
            raise CheckpointError(f"shard {path.name} is missing, {INDEX_NAME} lists it", where=str(index), hint=_AGAIN)
        check_not_pickle(path)
        for tensor in read_safetensors_header(path):
            if tensor.name in tensors:
                raise CheckpointError(f"tensor {tensor.name!r} is in two shards", where=str(path), hint=_AGAIN)
            if where is None or where.get(tensor.name) == path.name:
                tensors[tensor.name] = tensor
    absent = sorted(set(where or ()) - tensors.keys())
    if where is not None and absent:
        what = f"tensor {absent[0]!r} is listed in {INDEX_NAME} but absent"
        raise CheckpointError(what, where=str(folder / where[absent[0]]), hint=_AGAIN)
    return list(tensors.values())


def _weight_map(folder: Path) -> dict[str, str] | None:
    """Shard by tensor name as the index says, or None without an index."""
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    weight_map = read_json_object(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("`weight_map` is missing", where=str(path), hint=_AGAIN)
    for name in weight_map.values():
        if not isinstance(name, str) or not name.endswith(SAFETENSORS_SUFFIX) or "/" in name:
            raise CheckpointError(f"{name!r} is not a shard in this folder", where=str(path), hint=_AGAIN)
    return weight_map


def _content(folder: Path) -> list[Path]:
    """Files that make the model: those at the top, and those of sub-folders that are not hidden."""
    paths = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        is_hidden = any(part.startswith(".") for part in relative.parts)
        is_manifest = relative.as_posix() == MANIFEST_NAME
        if path.is_file() and is_content(path.name) and not (is_hidden or is_manifest):
            paths.append(path)
    return paths


def _has_chat_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in _CHAT_TEMPLATES):
        return True
    path = folder / _TOKENIZER_CONFIG
    return path.is_file() and bool(read_json_object(path).get("chat_template"))
