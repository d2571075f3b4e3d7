"""`lightship deploy ... --apply`, `deploy diff` and `deploy delete`: what was rendered, and a cluster."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console

from lightship.cli.deploy.inputs import render_input
from lightship.cli.load_spec import load_spec
from lightship.cli.prepare import surroundings
from lightship.cli.progress import progress_for_stderr
from lightship.deploy.apply.applying import apply_manifests
from lightship.deploy.apply.deleting import delete_manifests
from lightship.deploy.apply.diffing import SetDiff, diff_manifests
from lightship.deploy.apply.options import ApplyOptions, DeleteOptions
from lightship.deploy.document import Rendered
from lightship.deploy.render import render
from lightship.errors import UsageError
from lightship.kubernetes.access import ClusterAccess
from lightship.kubernetes.client import KubernetesClient, client_of
from lightship.kubernetes.kubeconfig import kubeconfig_access, kubeconfig_paths
from lightship.ports.clock import SystemClock

_CONSOLE_STDERR = Console(stderr=True, highlight=False, soft_wrap=True)
# What is for an API server; the others are files for other programs.
APPLIED = ("kubernetes", "knative", "kserve")
_Result = TypeVar("_Result")


class RenderedSet:
    """What a spec renders to, under the name by which the cluster's inventory knows it."""

    def __init__(self, args: argparse.Namespace, platform: str) -> None:
        spec = load_spec(args).spec
        rendering = render_input(spec, surroundings(), platform=platform)
        self.rendered: Rendered = render(platform, rendering)
        self.name = rendering.names.prefix
        settings = getattr(rendering.settings, platform, None) or rendering.settings.kubernetes
        self.namespace: str = getattr(settings, "namespace", None) or rendering.settings.kubernetes.namespace


def apply_rendered(args: argparse.Namespace, made: RenderedSet) -> None:
    """Effects: the cluster has what was rendered, and it serves, unless nobody waits.

    Raises: ApplyError, RolloutError, ClusterAccessError: see `apply_manifests`.
    """
    options = ApplyOptions(
        set_name=made.name,
        namespace=made.namespace,
        creates_namespace=args.create_namespace,
        forces_conflicts=args.force_conflicts,
        prunes=args.prune,
        waits=not args.no_wait,
        wait_limit_s=args.timeout,
    )

    async def apply(client: KubernetesClient) -> None:
        result = await apply_manifests(
            client,
            made.rendered.resources,
            options=options,
            clock=SystemClock(),
            progress=progress_for_stderr(),
            report=_note if args.json else _say,
        )
        if result.left_over:
            names = ", ".join(str(key) for key in result.left_over)
            _CONSOLE_STDERR.print(f"left over from an earlier apply (--prune deletes them): {names}", markup=False)

    asyncio.run(_with_client(args, apply))


def run_diff(args: argparse.Namespace) -> int:
    """`lightship deploy diff` with parsed arguments: 0 when nothing would change, 1 when something would."""
    made = RenderedSet(args, args.renders)

    async def diff(client: KubernetesClient) -> SetDiff:
        return await diff_manifests(client, made.rendered.resources, set_name=made.name, namespace=made.namespace)

    found = asyncio.run(_with_client(args, diff))
    for one in found.objects:
        sys.stdout.write(one.text if one.text.endswith("\n") else one.text + "\n")
        if one.conflict:
            _CONSOLE_STDERR.print(one.conflict, markup=False)
    for key in found.left_over:
        sys.stdout.write(f"left over: {key}\n")
    return found.exit_code


def run_delete(args: argparse.Namespace) -> int:
    """`lightship deploy delete` with parsed arguments."""
    made = RenderedSet(args, args.renders)
    options = DeleteOptions(
        set_name=made.name,
        namespace=made.namespace,
        deletes_volumes=args.volumes,
        deletes_namespace=args.namespace_too,
        waits=not args.no_wait,
        wait_limit_s=args.timeout or DeleteOptions.wait_limit_s,
    )

    async def delete(client: KubernetesClient) -> None:
        await delete_manifests(
            client,
            made.rendered.resources,
            options=options,
            clock=SystemClock(),
            progress=progress_for_stderr(),
            report=_say,
        )

    asyncio.run(_with_client(args, delete))
    return 0


def refuse_apply(platform: str) -> None:
    """Raises: UsageError: what this platform reads is no matter of an API server."""
    if platform not in APPLIED:
        hint = f"Use its own program with the files of -o DIR; --apply is for {', '.join(APPLIED)}."
        raise UsageError(f"{platform} is no cluster that takes manifests", where="--apply", hint=hint)


async def _with_client(args: argparse.Namespace, act: Callable[[KubernetesClient], Awaitable[_Result]]) -> _Result:
    async with _client(args) as client:
        return await act(client)


@asynccontextmanager
async def _client(args: argparse.Namespace) -> AsyncIterator[KubernetesClient]:
    async with client_of(_access(args), clock=SystemClock()) as client:
        yield client


def _access(args: argparse.Namespace) -> ClusterAccess:
    named: Path | None = args.kubeconfig
    paths = [named] if named is not None else kubeconfig_paths(os.environ, home=Path.home())
    return kubeconfig_access(paths, clock=SystemClock(), context=args.context)


def _note(line: str) -> None:
    _CONSOLE_STDERR.print(line, markup=False)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
