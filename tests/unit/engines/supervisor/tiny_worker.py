"""A worker of thirty lines: `tiny_worker.py PORT FOLDER`. Files in the folder say what is wrong with it.

`broken`: it ends at once with status 3. `slow`: it is never ready. `marks`: each start writes its process id below it.
"""

from __future__ import annotations

import http.server
import os
import sys
from pathlib import Path

port, folder = int(sys.argv[1]), Path(sys.argv[2])
(folder / "marks").mkdir(exist_ok=True)
(folder / "marks" / f"{port}-{os.getpid()}").touch()
if (folder / "broken").exists():
    sys.exit(3)


class Ready(http.server.BaseHTTPRequestHandler):
    """Answers every question."""

    def do_GET(self) -> None:
        """Ready, unless it is slow."""
        self.send_response(503 if (folder / "slow").exists() else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Nothing is logged."""


http.server.HTTPServer(("127.0.0.1", port), Ready).serve_forever()
