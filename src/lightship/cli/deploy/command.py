"""`lightship deploy` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from lightship.cli.model_commands import require_extra

PLATFORM_HELP = {
    "compose": "Docker Compose on one machine",
    "kubernetes": "plain Kubernetes resources, a kustomize base and overlays",
    "knative": "one Knative Service that sleeps and wakes",
    "kserve": "KServe LLMInferenceServices (rungs on vLLM)",
    "ray": "a Ray Serve LLM config (rungs on vLLM)",
    "systemd": "systemd units for one box",
}


def add_deploy_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `deploy` with a sub-command for each platform."""
    topic = subparsers.add_parser(
        "deploy",
        help="render what runs the spec's ladder elsewhere (Kubernetes, Compose, Knative, KServe, Ray, systemd)",
        description="Renders the spec's ladder for a platform: as it was measured here, or from the spec alone.",
    )
    commands = topic.add_subparsers(dest="platform", required=True, metavar="PLATFORM")
    for platform, text in PLATFORM_HELP.items():
        add_render_options(commands.add_parser(platform, help=text, description=f"Renders {text}."))


def add_render_options(parser: argparse.ArgumentParser) -> None:
    """The options of every platform. Effects: changes `parser`, whose `run` renders."""
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="SPEC", help="the spec; default: ./lightship.yaml if it is there"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to write: new, empty, or written before"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="set one value, for example deploy.kubernetes.namespace=llm; may be repeated",
    )
    parser.add_argument("--explain", action="store_true", help="print the arithmetic of each number")
    parser.add_argument("--json", action="store_true", help="print documents, numbers and notes as JSON")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    require_extra("numpy")  # of the steps that recipes are made of, which say what a variant's format is
    from lightship.cli.deploy.run import run_deploy

    return run_deploy(args)
