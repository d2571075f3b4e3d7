"""The harness's own command line with one more model: `python -m lightship.evaluation.harness --model lightship`."""

from __future__ import annotations

import importlib
import sys

from lightship.errors import LightshipError
from lightship.evaluation.harness.adapter import register_lightship_model


def main() -> int:
    """Runs it; an error that is not the program's is one line on stderr and its exit code."""
    try:
        register_lightship_model()
        importlib.import_module("lm_eval.__main__").cli_evaluate()
    except LightshipError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
