"""`python -m lightship.engines.simulated CONFIG.json [--exit-with-parent]`: one worker.

With `--exit-with-parent` the end of standard input stops the worker like SIGTERM.
"""

from __future__ import annotations

import sys
from pathlib import Path

from lightship.engines.simulated.config import read_config
from lightship.engines.simulated.worker import run_worker
from lightship.errors import LightshipError, UsageError
from lightship.serving.parent import FLAG


def main(arguments: list[str]) -> int:
    """Runs a worker until it is told to stop; the exit status."""
    try:
        if not arguments or set(arguments[1:]) - {FLAG}:
            raise UsageError(f"usage: python -m lightship.engines.simulated CONFIG.json [{FLAG}]")
        return run_worker(read_config(Path(arguments[0])), exits_with_parent=FLAG in arguments[1:])
    except LightshipError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
