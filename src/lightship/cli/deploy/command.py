"""`lightship deploy` on the command line; what it does is imported when it runs."""

from __future__ import annotations

import argparse
import math
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
    diff = commands.add_parser(
        "diff", help="what an apply would change in a cluster", description="0: nothing; 1: something, which is shown."
    )
    _add_spec_options(diff)
    _add_rendered_kind(diff)
    _add_cluster_options(diff)
    diff.set_defaults(run=_diff)
    delete = commands.add_parser("delete", help="take out of a cluster what an apply put there")
    _add_spec_options(delete)
    _add_rendered_kind(delete)
    _add_cluster_options(delete)
    delete.add_argument("--volumes", action="store_true", help="volumes, too: what is in them is lost")
    delete.add_argument(
        "--namespace-too", action="store_true", help="the namespace, with everything else that is in it"
    )
    _add_wait_options(delete)
    delete.set_defaults(run=_delete)


def _add_spec_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", nargs="?", type=Path, metavar="SPEC", help="the spec; default: ./lightship.yaml if it is there"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="set one value, for example deploy.kubernetes.namespace=llm; may be repeated",
    )


def _add_rendered_kind(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--as",
        dest="renders",
        choices=("kubernetes", "knative", "kserve"),
        default="kubernetes",
        help="what the spec is rendered to",
    )


def _add_cluster_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--context", default="", metavar="NAME", help="of the kubeconfig; default: its current one")
    parser.add_argument(
        "--kubeconfig", type=Path, metavar="FILE", help="default: KUBECONFIG, else the one in the home folder"
    )


def _add_wait_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-wait", action="store_true", help="return at once")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="longest wait")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be seconds above 0, got {text!r}")
    return value


def add_render_options(parser: argparse.ArgumentParser) -> None:
    """The options of every platform. Effects: changes `parser`, whose `run` renders."""
    _add_spec_options(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="DIR", help="folder to write: new, empty, or written before"
    )
    parser.add_argument("--apply", action="store_true", help="bring it into the cluster of the kubeconfig")
    _add_cluster_options(parser)
    parser.add_argument(
        "--create-namespace", action="store_true", help="with --apply: make the namespace if it is missing"
    )
    parser.add_argument(
        "--force-conflicts", action="store_true", help="with --apply: take over fields that others have set"
    )
    parser.add_argument(
        "--prune", action="store_true", help="with --apply: delete what an earlier apply made and is no longer rendered"
    )
    _add_wait_options(parser)
    parser.add_argument("--explain", action="store_true", help="print the arithmetic of each number")
    parser.add_argument("--json", action="store_true", help="print documents, numbers and notes as JSON")
    parser.set_defaults(run=_run)


def _diff(args: argparse.Namespace) -> int:
    require_extra("numpy")
    from lightship.cli.deploy.cluster import run_diff

    return run_diff(args)


def _delete(args: argparse.Namespace) -> int:
    require_extra("numpy")
    from lightship.cli.deploy.cluster import run_delete

    return run_delete(args)


def _run(args: argparse.Namespace) -> int:
    require_extra("numpy")  # of the steps that recipes are made of, which say what a variant's format is
    from lightship.cli.deploy.run import run_deploy

    return run_deploy(args)
