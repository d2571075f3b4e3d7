"""The engine `llamacpp`, described: version, target, features and the command that starts `llama-server`."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from lightship.artifacts.machine import this_machine
from lightship.engines.base import EngineFeature, EngineQuirk
from lightship.engines.idle import Drain
from lightship.engines.llamacpp.config import (
    MODEL_NAME,
    LlamacppWorkerConfig,
    context_length,
    encode_config,
    read_config,
)
from lightship.engines.tether import tethered
from lightship.errors import EngineError
from lightship.ports.measurements import Target

PROGRAM = "llama-server"
_GAUGES = ("llamacpp:requests_processing", "llamacpp:requests_deferred")
_VERSION_TIMEOUT_S = 30.0
_VERSION = re.compile(r"^version: (.+?)(?: \(build \d+, commit ([^)]+)\))?$", re.MULTILINE)
_MIB = 2**20


class LlamacppAdapter:
    """Describes the engine; starts nothing but `llama-server --version`."""

    name = "llamacpp"
    ready_path = "/health"
    # Not prompt log-probabilities: `echo` is accepted and ignored (see `evaluation.prefix_scoring`).
    features = frozenset(
        {
            EngineFeature.COMPLETIONS,
            EngineFeature.CHAT,
            EngineFeature.LOGPROBS,
            EngineFeature.TOP_LOGPROBS,
            EngineFeature.SEED,
            EngineFeature.MANY_CHOICES,
            EngineFeature.STRUCTURED_OUTPUT,
            EngineFeature.TOOLS,
            EngineFeature.CACHED_TOKENS,
        }
    )
    quirks = frozenset(
        {
            EngineQuirk.IGNORES_UNKNOWN_FIELDS,
            EngineQuirk.LENIENT_VALUES,
            EngineQuirk.ANY_MODEL_NAME,
            EngineQuirk.CUTS_LONG_OUTPUTS,
            EngineQuirk.CHAT_SHAPED_LOGPROBS,
            EngineQuirk.USAGE_OF_ONE_CHOICE,
            EngineQuirk.USAGE_WITH_LAST_TEXT,
            EngineQuirk.CLIENT_ERRORS_AS_500,
            EngineQuirk.SERVES_WHILE_DRAINING,
        }
    )

    def version(self) -> str:
        """Version of the `llama-server` on the path.

        Raises: EngineError: there is none, or it does not start.
        """
        return program_version(shutil.which(PROGRAM) or PROGRAM)

    def target(self, settings: LlamacppWorkerConfig) -> Target:
        """The target of a worker with these settings on this machine.

        Raises: EngineError: the settings do not say a version, and the program does not start.
        """
        return Target(
            engine=self.name,
            engine_version=settings.engine_version or program_version(settings.program),
            device="CPU",
            instruction_set=this_machine().instruction_set,
            num_threads=_num_threads(settings),
            settings={
                "flash_attention": settings.flash_attention,
                "kv_cache_type": settings.kv_cache_type,
                "context_length": context_length(settings),
                "max_sequences": settings.max_sequences,
                "max_batched_tokens": settings.max_batched_tokens,
                "max_step_tokens": settings.max_step_tokens,
                "prompt_cache_bytes": settings.prompt_cache_bytes,
                "busy_waiting": settings.busy_waiting,
                # named only where it is used, so that figures from before it was a setting still count
                **({"sleep_after_s": settings.sleep_after_s} if settings.sleep_after_s else {}),
            },
        )

    def write_config(self, settings: LlamacppWorkerConfig, path: Path) -> None:
        """Effects: writes the worker's config file."""
        path.write_bytes(encode_config(settings))

    def worker_command(self, config_path: Path) -> list[str]:
        """The command of a worker that ends with the process that holds its standard input.

        Raises: UsageError: the file holds no such settings. CheckpointError: the model's context length is not known.
        """
        settings = read_config(config_path)
        # Told to end, it would leave what is under way hanging for half a minute and then break it off.
        drain = Drain(f"{settings.address}/metrics", _GAUGES, settings.drain_timeout_s, is_signal_first=False)
        return tethered(server_command(settings), drain)

    def environment(self, settings: LlamacppWorkerConfig) -> dict[str, str]:
        """How its threads wait. Source: OMP_WAIT_POLICY in the OpenMP specification, which libgomp follows."""
        return {"OMP_WAIT_POLICY": "active" if settings.busy_waiting else "passive"}


def server_command(settings: LlamacppWorkerConfig) -> list[str]:
    """`llama-server` and its arguments.

    The context given to it is that of all sequences together; it gives each an equal part.
    """
    threads = str(_num_threads(settings))
    options = {
        "--model": str(Path(settings.folder) / MODEL_NAME),
        "--alias": settings.model_name,
        "--host": settings.host,
        "--port": str(settings.port),
        "--threads": threads,
        "--threads-batch": threads,
        "--parallel": str(settings.max_sequences),
        "--ctx-size": str(context_length(settings) * settings.max_sequences),
        "--flash-attn": "on" if settings.flash_attention else "off",
        "--cache-type-k": settings.kv_cache_type,
        "--cache-type-v": settings.kv_cache_type,
        "--batch-size": str(settings.max_batched_tokens),
        "--ubatch-size": str(settings.max_step_tokens),
        "--cache-ram": str(settings.prompt_cache_bytes // _MIB),
        "--timeout": str(max(1, round(settings.request_timeout_s))),
        "--fit": "off",  # it would shrink what was asked for
        **({"--sleep-idle-seconds": str(settings.sleep_after_s)} if settings.sleep_after_s else {}),
    }
    # /slots shows what others ask; the web page is not built in
    flags = ["--no-kv-unified", "--metrics", "--no-slots", "--no-ui", "--offline", "--log-colors", "off"]
    return [settings.program, *(word for option in options.items() for word in option), *flags]


def program_version(program: str) -> str:
    """What `llama-server --version` says: `llama-cpp-python-0.3.36 (0.5.0-dev)` for one of the toolchain.

    Raises: EngineError: it is not there, does not start, or says something else.
    """
    hint = "Run `lightship toolchain install gguf`."
    try:
        result = subprocess.run(
            [program, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"llama-server does not start: {error}", where=program, hint=hint) from error
    found = _VERSION.search(result.stdout + result.stderr)
    if result.returncode != 0 or found is None:
        raise EngineError(f"llama-server ended with {result.returncode} and told no version", where=program, hint=hint)
    return f"{found[2]} ({found[1]})" if found[2] else found[1]


def _num_threads(settings: LlamacppWorkerConfig) -> int:
    return settings.num_threads or len(os.sched_getaffinity(0))
