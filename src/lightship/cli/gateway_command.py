"""`lightship gateway` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_gateway_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `gateway`."""
    parser = subparsers.add_parser(
        "gateway",
        help="serve existing OpenAI-compatible endpoints (vLLM, llama-server, Ollama, ...) behind one gateway",
        description="Serves endpoints that run already: keys, limits, a ladder, retries, metrics in front of them. "
        "Without endpoints on the command line those in the spec (upstreams) are served. SIGHUP, or a change of the "
        "spec file, reloads it without cutting a request.",
    )
    parser.add_argument(
        "endpoints",
        nargs="*",
        metavar="URL[#MODEL]",
        help="an endpoint; its model is asked for when it is not named, #* serves each one it lists. Endpoints of one "
        "model share its load",
    )
    parser.add_argument(
        "--rung",
        action="append",
        default=[],
        dest="rungs",
        metavar="NAME=URL[#MODEL]",
        help="a rung of one ladder, best quality first; a repeated NAME is another replica of that rung",
    )
    parser.add_argument("--name", default="", metavar="MODEL", help="the model name clients send")
    parser.add_argument(
        "--api-key-env", default="", metavar="VARIABLE", help="environment variable with the endpoints' API key"
    )
    parser.add_argument(
        "-f",
        "--file",
        "--config",
        type=Path,
        metavar="FILE",
        help="the spec; default: ./lightship.yaml if it is there",
    )
    parser.add_argument("--listen", metavar="HOST:PORT", help="address to listen on (gateway.listen)")
    parser.add_argument("--workers", metavar="N", help="serving processes (gateway.workers)")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="set one value of the spec, for example gateway.timeouts.total_s=900; may be repeated",
    )
    parser.add_argument("--check", action="store_true", help="say what would be served, and serve nothing")
    parser.add_argument("--json", action="store_true", help="with --check: print it as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    from lightship.cli.gateway_run import run_gateway

    return run_gateway(args)
