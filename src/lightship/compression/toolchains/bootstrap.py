"""Starts a job inside a toolchain: `python -I bootstrap.py KIND JOB.json [--exit-with-parent]`.

The toolchain has its own packages and must not see the host's. So only the package `lightship` itself is made
importable here, from the folder this file lies in; nothing else of the host's site-packages comes along.

An exception of the job becomes one line on stdout, `{"event": "error", "message": ...}`, which is what the user is
told; the traceback goes to stderr, which is the log. A job that ends well says what memory it took.
"""

import importlib
import importlib.util
import json
import os
import resource
import sys
import threading
import traceback
from pathlib import Path

EXIT_WITH_PARENT = "--exit-with-parent"


def _make_lightship_importable() -> None:
    package = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location(
        "lightship", package / "__init__.py", submodule_search_locations=[str(package)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"no package at {package}")
    module = importlib.util.module_from_spec(spec)
    sys.modules["lightship"] = module
    spec.loader.exec_module(module)


def _exit_with_parent() -> None:
    """Ends this process when standard input ends, which the parent holds: a job must not outlive who waits for it."""

    def wait() -> None:
        while os.read(sys.stdin.fileno(), 1024):
            pass
        os._exit(1)  # from a thread nothing gentler reaches native code; outputs are renamed into place when complete

    threading.Thread(target=wait, daemon=True).start()


def error_message(error: Exception) -> str:
    """What the user is told of a job's failure: our own errors in their words, others after the name of their kind."""
    what = getattr(error, "what", None)  # LightshipError, which is not importable before the package is
    if isinstance(what, str):
        return what
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _peak_rss_bytes() -> int:
    """Peak of this process or of the largest of its children, whichever is higher."""
    peaks = [resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return max(peaks) * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Runs job KIND on the file; a failing job ends the process with status 1 and an error event."""
    kind, job_path, *flags = sys.argv[1:]
    if EXIT_WITH_PARENT in flags:
        _exit_with_parent()
    _make_lightship_importable()
    try:
        job_module = importlib.import_module(f"lightship.compression.jobs.{kind}")
        job_module.main(Path(job_path))
        print(json.dumps({"event": "resources", "peak_rss_bytes": _peak_rss_bytes()}), flush=True)
    except Exception as error:  # noqa: BLE001 - whatever ends a job must reach who waits for it, in one line
        traceback.print_exc()
        print(json.dumps({"event": "error", "message": error_message(error)}), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
