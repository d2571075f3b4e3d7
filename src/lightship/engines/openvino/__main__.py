"""`python -m lightship.engines.openvino CONFIG.json [--exit-with-parent]`: one worker.

The pipeline process is started before anything else is imported, so that the model loads while this process loads its
own half. With `--exit-with-parent` the end of standard input stops the worker like SIGTERM: the process that started it
holds the other end of that pipe, and when it dies, however it dies, the system closes it.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from lightship.engines.openvino.config import read_config
from lightship.errors import LightshipError
from lightship.serving.scheduling import yield_to_computation

_PIPELINE_MODULE = "lightship.engines.openvino.pipeline"


def _start_pipeline(config_path: Path) -> tuple[subprocess.Popen[bytes], socket.socket]:
    ours, theirs = socket.socketpair()
    with theirs:
        command = [sys.executable, "-m", _PIPELINE_MODULE, str(config_path), str(theirs.fileno())]
        # standard output goes to standard error: libraries print there, and a worker has no data to print
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr, pass_fds=[theirs.fileno()])
    return process, ours


def main(arguments: list[str]) -> int:
    """Runs a worker until it is told to stop; the exit status."""
    config_path = Path(arguments[0]) if arguments else Path()
    try:
        config = read_config(config_path)
    except LightshipError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    process, connection = _start_pipeline(config_path)
    yield_to_computation()  # after the pipeline's start, which must not inherit it
    try:
        from lightship.engines.openvino.worker import run_worker

        return run_worker(config, process, connection, exits_with_parent="--exit-with-parent" in arguments[1:])
    except LightshipError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    finally:
        connection.close()
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    # it leaves by itself when the socket closes, but not in the middle of a step or of loading a model
    try:
        process.wait(timeout=2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
