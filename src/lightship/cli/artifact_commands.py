"""`lightship artifacts ls|rm|gc|verify`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from datetime import UTC, datetime
from typing import Any

from rich.markup import escape
from rich.table import Table

from lightship.artifacts.home import artifact_root, data_home
from lightship.artifacts.store import ArtifactStore
from lightship.cli.tables import print_table
from lightship.errors import ArtifactError, LightshipError
from lightship.ports.clock import SystemClock
from lightship.ports.variants import Variant
from lightship.units import format_bytes


def add_artifact_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `artifacts` with its sub-commands."""
    parser = subparsers.add_parser("artifacts", help="variants on this machine")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    reference_help = "digest, its first four or more digits, or a name"
    ls = commands.add_parser("ls", help="variants and the disk they take")
    ls.set_defaults(run=_ls)
    rm = commands.add_parser("rm", help="remove variants; they are made again when needed")
    rm.add_argument("references", nargs="+", metavar="VARIANT", help=reference_help)
    rm.set_defaults(run=_rm)
    gc = commands.add_parser("gc", help="remove leftovers that nothing refers to")
    gc.add_argument("--keep", action="append", default=[], metavar="DIGEST", help="keep this variant in any case")
    gc.set_defaults(run=_gc)
    verify = commands.add_parser("verify", help="compare every byte with the manifests; exit code 4 on a difference")
    verify.add_argument("references", nargs="*", metavar="VARIANT", help=f"{reference_help}; all without one")
    verify.set_defaults(run=_verify)
    for command in (ls, rm, gc, verify):
        command.add_argument("--json", action="store_true", help="print JSON")


def artifact_store() -> ArtifactStore:
    """The store in this user's data directory."""
    return ArtifactStore(artifact_root(data_home(os.environ)), SystemClock())


def _ls(args: argparse.Namespace) -> int:
    store = artifact_store()
    variants, damaged = store.ls(), store.damaged()
    if args.json:
        rows = [_row(variant) for variant in variants]
        broken = [{"folder": str(item.folder), "error": item.error.what} for item in damaged]
        return _print_json({"variants": rows, "damaged": broken})
    table = Table()
    for title in ("digest", "name", "model", "format", "parameters", "disk", "built"):
        # What people copy or compare stays whole on a narrow terminal; the rest is folded.
        table.add_column(title, no_wrap=title in {"digest", "parameters", "disk"}, overflow="fold")
    for variant in variants:
        manifest = variant.manifest
        table.add_row(
            manifest.short_digest,
            escape(manifest.name),
            escape(manifest.model_name),
            manifest.weight_format.value,
            f"{manifest.num_parameters:,}",
            format_bytes(manifest.num_bytes),
            datetime.fromtimestamp(manifest.created_unix_s, UTC).strftime("%Y-%m-%d"),
        )
    for item in damaged:
        table.add_row(item.folder.name[:12], "[red]damaged[/]", escape(item.error.what))
    print_table(table)
    return 0


def _rm(args: argparse.Namespace) -> int:
    store = artifact_store()
    freed_bytes = {}
    for digest in [_digest_to_remove(store, reference) for reference in args.references]:
        freed_bytes[digest] = store.rm(digest)
    if args.json:
        return _print_json({"removed": [{"digest": d, "freed_bytes": freed} for d, freed in freed_bytes.items()]})
    for digest, freed in freed_bytes.items():
        sys.stdout.write(f"removed {digest}, {format_bytes(freed)} freed\n")
    return 0


def _gc(args: argparse.Namespace) -> int:
    store = artifact_store()
    freed_bytes = store.gc([_digest_to_remove(store, reference) for reference in args.keep])
    if args.json:
        return _print_json({"freed_bytes": freed_bytes})
    sys.stdout.write(f"{format_bytes(freed_bytes)} freed\n")
    return 0


def _verify(args: argparse.Namespace) -> int:
    store = artifact_store()
    variants = [store.open(reference) for reference in args.references] or store.ls()
    failures: list[tuple[str, LightshipError]] = []
    sound = []
    for variant in variants:
        try:
            store.verify(variant, full=True)
            sound.append(variant.manifest.digest)
        except ArtifactError as error:
            failures.append((variant.manifest.digest, error))
    if not args.references:
        failures += [(item.folder.name, item.error) for item in store.damaged()]
    if args.json:
        _print_json({"sound": sound, "failed": [{"digest": d, "error": str(failure)} for d, failure in failures]})
    else:
        for digest in sound:
            sys.stdout.write(f"ok      {digest}\n")
        for digest, failure in failures:
            sys.stdout.write(f"failed  {digest}  {failure}\n")
    return ArtifactError.exit_code if failures else 0


def _digest_to_remove(store: ArtifactStore, reference: str) -> str:
    """The digest that `reference` names; a damaged variant has no name and is named by its digits only."""
    prefix = reference.removeprefix("sha256:")
    damaged = [item.folder.name for item in store.damaged() if len(prefix) >= 4 and item.folder.name.startswith(prefix)]
    return f"sha256:{damaged[0]}" if len(damaged) == 1 else store.open(reference).manifest.digest


def _row(variant: Variant) -> dict[str, Any]:
    manifest = variant.manifest
    return {
        "digest": manifest.digest,
        "name": manifest.name,
        "model": manifest.model_name,
        "format": manifest.weight_format.value,
        "parameters": manifest.num_parameters,
        "bytes": manifest.num_bytes,
        "context_length": manifest.context_length,
        "parent_digest": manifest.parent_digest,
        "created_unix_s": manifest.created_unix_s,
        "folder": str(variant.folder),
    }


def _print_json(content: dict[str, Any]) -> int:
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0
