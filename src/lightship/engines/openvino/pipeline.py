"""The process that owns the model: takes commands, steps the pipeline, reports each step in one frame.

    idle (blocked on the socket) --Add--> busy (drain commands, step, report)* --nothing left--> idle
    end of socket -> leave, whatever is running: the worker that asked is gone
    exception in step() -> report Broken, leave with status 1

One thread owns everything here. GenAI's `step()` never lets go of the interpreter lock, so a second thread would only
wait; commands are taken between steps, which is also the only time at which a cancelled sequence can be freed.
"""

from __future__ import annotations

import contextlib
import logging
import select
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from lightship.engines.openvino.config import OpenVinoWorkerConfig, read_config
from lightship.engines.openvino.frames import (
    Add,
    Broken,
    Cancel,
    Command,
    FieldValue,
    Finish,
    FrameSplitter,
    Loaded,
    Output,
    Refused,
    Stepped,
    encode_frame,
)
from lightship.engines.openvino.model_info import read_model_info
from lightship.engines.openvino.runtime import device_properties, load_genai, load_openvino
from lightship.errors import EngineError, LightshipError
from lightship.observability.logs import configure_logging

logger = logging.getLogger(__name__)

_RECEIVE_BYTES = 2**20
_MAX_IDLE_STEPS = 100
"""Steps in a row that schedule nothing before the waiting sequences are given up; one is normal after a cancel."""


class CommandSocket:
    """The worker's side of the conversation is at the other end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._splitter = FrameSplitter()
        self._decoder = msgspec.msgpack.Decoder(Command)
        self.is_closed = False

    def take(self, *, can_wait: bool) -> list[Command]:
        """Commands received so far; waits for some when `can_wait`."""
        if not can_wait and not select.select([self._connection], [], [], 0)[0]:
            return []
        received = self._connection.recv(_RECEIVE_BYTES)
        self.is_closed = not received
        return [self._decoder.decode(payload) for payload in self._splitter.feed(received)]

    def send(self, event: Loaded | Stepped | Refused | Broken) -> None:
        """Effects: writes one frame; waits when the worker is behind."""
        self._connection.sendall(encode_frame(event))


@dataclass
class _Live:
    handle: Any
    wants_logprobs: bool


class PipelineOwner:
    """Runs sequences on one pipeline until the socket closes."""

    def __init__(self, *, genai: Any, make_tensor: Any, pipeline: Any, commands: CommandSocket) -> None:
        self._genai = genai
        self._make_tensor = make_tensor
        self._pipeline = pipeline
        self._commands = commands
        self._live: dict[int, _Live] = {}
        self._num_idle_steps = 0
        reasons = genai.GenerationFinishReason
        self._finish_words: dict[Any, Finish] = {reasons.NONE: "", reasons.STOP: "stop", reasons.LENGTH: "length"}

    def run(self) -> None:
        """Returns when the socket is closed."""
        pipeline = self._pipeline
        while True:
            is_busy = pipeline.has_non_finished_requests()
            for command in self._commands.take(can_wait=not is_busy):
                self._apply(command)
            if self._commands.is_closed:
                return
            if pipeline.has_non_finished_requests():
                pipeline.step()
                self._report()

    def _apply(self, command: Command) -> None:
        match command:
            case Add():
                self._add(command)
            case Cancel(sequence_id=sequence_id):
                live = self._live.pop(sequence_id, None)
                if live is not None:
                    live.handle.cancel()

    def _add(self, command: Add) -> None:
        try:
            handle = self._pipeline.add_request(
                command.sequence_id,
                self._make_tensor(command.token_ids),
                generation_config(self._genai, command.fields),
            )
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:
            self._commands.send(Refused(command.sequence_id, _first_line(error), is_capacity=False))
            return
        self._live[command.sequence_id] = _Live(handle, bool(command.fields.get("logprobs")))

    def _report(self) -> None:
        outputs: list[Output] = []
        refused: list[int] = []
        for sequence_id, live in self._live.items():
            output = self._read(sequence_id, live)
            if output is not None:
                outputs.append(output)
            elif live.handle.get_status() == self._genai.GenerationStatus.IGNORED:
                refused.append(sequence_id)
        for output in outputs:
            if output.finish:
                del self._live[output.sequence_id]
        metrics = self._pipeline.get_metrics()
        refused += self._starved(num_scheduled=metrics.scheduled_requests, has_output=bool(outputs))
        for sequence_id in dict.fromkeys(refused):
            self._live.pop(sequence_id).handle.cancel()
            message = "The KV cache is full; fewer or shorter requests at the same time would fit."
            self._commands.send(Refused(sequence_id, message, is_capacity=True))
        # a step in the middle of a long prompt says nothing new, but the gauges of the worker live from it
        self._commands.send(Stepped(outputs, metrics.scheduled_requests, metrics.cache_usage / 100))

    def _read(self, sequence_id: int, live: _Live) -> Output | None:
        token_ids: list[int] = []
        logprobs: list[float] = []
        finish: Finish = ""
        while live.handle.can_read():
            for output in live.handle.read().values():
                token_ids += output.generated_ids
                if live.wants_logprobs:
                    logprobs += output.generated_log_probs
                finish = self._finish_words[output.finish_reason] or finish
        return Output(sequence_id, token_ids, logprobs, finish) if token_ids or finish else None

    def _starved(self, *, num_scheduled: int, has_output: bool) -> list[int]:
        self._num_idle_steps = 0 if num_scheduled or has_output else self._num_idle_steps + 1
        if self._num_idle_steps <= _MAX_IDLE_STEPS:
            return []
        self._num_idle_steps = 0
        return list(self._live)


def generation_config(genai: Any, fields: dict[str, FieldValue]) -> Any:
    """GenAI's GenerationConfig with these attributes.

    Raises: AttributeError: no such attribute; TypeError: a value of the wrong type.
    """
    config = genai.GenerationConfig()
    for name, value in fields.items():
        if not hasattr(config, name):
            raise AttributeError(f"GenerationConfig has no {name}")
        setattr(config, name, value)
    return config


def load_pipeline(genai: Any, config: OpenVinoWorkerConfig) -> Any:
    """The pipeline of the variant in `config.folder`.

    Raises: EngineError: OpenVINO cannot load it on this device with these settings.
    """
    info = read_model_info(config)
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size = 0
    scheduler.num_kv_blocks = info.num_kv_blocks
    scheduler.max_num_batched_tokens = max(config.max_batched_tokens, config.max_sequences)
    scheduler.max_num_seqs = config.max_sequences
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.dynamic_split_fuse = True
    properties = device_properties(config)
    if config.num_threads > 0:
        properties["sampler_num_threads"] = config.num_threads
    try:
        return genai.ContinuousBatchingPipeline(config.folder, scheduler, config.device, properties)
    except RuntimeError as error:
        raise EngineError(
            f"OpenVINO cannot load the model on {config.device}: {_last_line(error)}",
            where=config.folder,
            hint="Check the files, the device name and the precision settings.",
        ) from error


def take_first_step(genai: Any, make_tensor: Any, pipeline: Any) -> None:
    """Makes the pipeline allocate its cache and ready its kernels, so that the first request need not wait for it."""
    handle = pipeline.add_request(0, make_tensor([0]), generation_config(genai, {"max_new_tokens": 1}))
    while pipeline.has_non_finished_requests():
        pipeline.step()
    while handle.can_read():
        handle.read()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _run(config: OpenVinoWorkerConfig, commands: CommandSocket) -> None:
    started_s = time.monotonic()
    genai = load_genai()
    pipeline = load_pipeline(genai, config)
    openvino = load_openvino()
    import numpy as np

    def make_tensor(token_ids: list[int]) -> Any:
        return openvino.Tensor(np.array([token_ids], dtype=np.int64))

    take_first_step(genai, make_tensor, pipeline)
    kv_cache_bytes = int(pipeline.get_metrics().kv_cache_size_in_bytes)
    commands.send(Loaded(kv_cache_bytes=kv_cache_bytes, load_s=time.monotonic() - started_s))
    PipelineOwner(genai=genai, make_tensor=make_tensor, pipeline=pipeline, commands=commands).run()


def main(config_path: str, socket_fd: int) -> int:
    """Serves the socket until it closes; the exit status.

    Effects: ignores SIGINT and SIGTERM, because the worker that started this process ends it by closing the socket,
    after its running requests are done.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    configure_logging(component="openvino-pipeline")
    commands = CommandSocket(socket.socket(fileno=socket_fd))
    try:
        _run(read_config(Path(config_path)), commands)
    except (BrokenPipeError, ConnectionResetError):
        return 0
    except LightshipError as error:
        logger.error("%s", error)  # noqa: TRY400  # a user's error: the message says it all
        _tell(commands, str(error))
        return error.exit_code
    except Exception as error:  # the process boundary: whatever broke must be told to every waiting client
        logger.exception("the pipeline failed")
        _tell(commands, _last_line(error))
        return 1
    return 0


def _tell(commands: CommandSocket, message: str) -> None:
    with contextlib.suppress(OSError):  # the worker may have met the same error and left first
        commands.send(Broken(message))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
