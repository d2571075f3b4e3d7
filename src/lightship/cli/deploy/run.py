"""`lightship deploy PLATFORM` with parsed arguments."""

from __future__ import annotations

import argparse
import hashlib
import sys
from typing import Any

import msgspec
from rich.console import Console

from lightship.cli.deploy.cluster import RenderedSet, apply_rendered, refuse_apply
from lightship.deploy.document import Document, Rendered
from lightship.deploy.writer import Written, write_rendered
from lightship.errors import UsageError

_CONSOLE_STDERR = Console(stderr=True, highlight=False, soft_wrap=True)


def run_deploy(args: argparse.Namespace) -> int:
    """Renders, checks and writes; returns the exit code.

    Raises: UsageError: there is nothing to do, or the folder is not ours. SpecError: the platform cannot do it.
    Effects: writes the folder; prints data on stdout, notes on stderr.
    """
    if args.apply:
        refuse_apply(args.platform)
    else:
        _refuse_without_apply(args)
    if args.output is None and not (args.json or args.explain or args.apply):
        hint = f"Run `lightship deploy {args.platform} -o DIR`."
        raise UsageError("there is nowhere to write to", where="-o", hint=hint)
    made = RenderedSet(args, args.platform)
    rendered = made.rendered
    written = None if args.output is None else write_rendered(rendered, args.output)
    if args.json:
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(_as_json(rendered)), indent=2) + b"\n")
        if args.apply:
            apply_rendered(args, made)
        return 0
    if args.explain:
        for one in rendered.reckonings:
            sys.stdout.write(f"{one.what}: {one.value} = {one.how}\n")
    if written is not None:
        _tell(written, str(args.output), is_quiet=args.explain)
    for note in rendered.notes:
        _CONSOLE_STDERR.print(f"note: {note}", style="dim", markup=False)
    if args.apply:
        apply_rendered(args, made)
    return 0


def _refuse_without_apply(args: argparse.Namespace) -> None:
    """Raises: UsageError: an option that means nothing without --apply."""
    given = {
        "--context": args.context,
        "--kubeconfig": args.kubeconfig,
        "--create-namespace": args.create_namespace,
        "--force-conflicts": args.force_conflicts,
        "--prune": args.prune,
        "--no-wait": args.no_wait,
        "--timeout": args.timeout,
    }
    for option, value in given.items():
        if value:
            raise UsageError("it belongs to --apply", where=option)


def _tell(written: Written, folder: str, *, is_quiet: bool) -> None:
    if not is_quiet:
        for path in written.written:
            sys.stdout.write(f"{folder}/{path}\n")
    if written.removed:
        _CONSOLE_STDERR.print(f"removed what is no longer rendered: {', '.join(written.removed)}", markup=False)
    if written.kept:
        _CONSOLE_STDERR.print(
            f"kept, because it was changed by hand and is no longer rendered: {', '.join(written.kept)}", markup=False
        )


def _as_json(rendered: Rendered) -> dict[str, Any]:
    return {
        "platform": rendered.platform,
        "documents": [_document(one) for one in rendered.documents],
        "reckonings": [{"what": one.what, "value": one.value, "how": one.how} for one in rendered.reckonings],
        "notes": list(rendered.notes),
    }


def _document(document: Document) -> dict[str, Any]:
    content = document.content.encode()
    return {"path": document.path, "num_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
