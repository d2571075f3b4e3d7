"""`lightship keys create|ls|show|rotate|disable|enable|expire|rm`."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from lightship.artifacts.home import data_home, keys_path
from lightship.cli.tables import print_table
from lightship.errors import UsageError
from lightship.gateway.tenants.key_store import KeyStore
from lightship.gateway.tenants.keys import KeyRecord, KeyScopes
from lightship.ports.clock import Clock, SystemClock
from lightship.units import parse_duration_s

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,47}")
_MODEL = re.compile(r"[!-~]{1,256}")
_DEFAULT_GRACE = "24h"
_LAST_UNIX_S = datetime(9999, 1, 1, tzinfo=UTC).timestamp()


def add_key_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `keys` with its sub-commands."""
    parser = subparsers.add_parser("keys", help="API keys: who may use the gateway")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a key; it is shown once")
    create.add_argument("tenant", help="whose limits apply to it")
    create.add_argument("--label", default="", help="what you call it")
    create.add_argument("--model", action="append", default=[], metavar="NAME", help="a model it may use; all without")
    create.add_argument("--priority", default="", metavar="CLASS", help="class of its requests that name none")
    create.add_argument("--max-priority", default="", metavar="CLASS", help="most important class it may use")
    create.add_argument("--admin", action="store_true", help="allow what is not for clients")
    create.add_argument("--expires", metavar="WHEN", help="after a time like 90d, or on a day like 2027-01-31 (UTC)")
    create.set_defaults(run=_create)
    ls = commands.add_parser("ls", help="all keys")
    ls.add_argument("--tenant", help="only those of this tenant")
    ls.set_defaults(run=_ls)
    show = commands.add_parser("show", help="everything about one key, except its secret")
    show.set_defaults(run=_show)
    rotate = commands.add_parser("rotate", help="change a key's secret; the new one is shown once")
    rotate.add_argument(
        "--grace", default=_DEFAULT_GRACE, metavar="TIME", help=f"how long the old one works on ({_DEFAULT_GRACE})"
    )
    rotate.set_defaults(run=_rotate)
    disable = commands.add_parser("disable", help="switch a key off")
    disable.set_defaults(run=_changed(KeyStore.disable, "disabled"))
    enable = commands.add_parser("enable", help="switch a key on again")
    enable.set_defaults(run=_changed(KeyStore.enable, "enabled"))
    expire = commands.add_parser("expire", help="set when a key ends")
    expire.add_argument("--at", default="0s", metavar="WHEN", help="like --expires of create, or never; now without")
    expire.set_defaults(run=_expire)
    rm = commands.add_parser("rm", help="forget a key")
    rm.set_defaults(run=_changed(KeyStore.remove, "removed"))
    for command in (show, rotate, disable, enable, expire, rm):
        command.add_argument("key", metavar="KEY", help="its prefix, as ls shows it")
    for command in (create, ls, show, rotate, disable, enable, expire, rm):
        command.add_argument("--file", type=Path, metavar="PATH", help="another file of keys than this user's")
        command.add_argument("--json", action="store_true", help="print JSON")


def expiry(text: str, now_unix_s: float) -> float | None:
    """When `90d`, `2027-01-31` or `2027-01-31T12:00` is; None for `never`.

    Raises: UsageError: it is none of these.
    """
    if text == "never":
        return None
    try:
        at_unix_s = now_unix_s + parse_duration_s(text)
    except ValueError:
        at_unix_s = _moment_named(text)
    if not at_unix_s < _LAST_UNIX_S:
        raise UsageError(f"{text!r} is too far away", hint="Write never for a key that does not end.")
    return at_unix_s


def _moment_named(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        hint = "Write a time like 90d or 12h, a day like 2027-01-31, or never."
        raise UsageError(f"{text!r} says no time", hint=hint) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _create(args: argparse.Namespace) -> int:
    clock = SystemClock()
    for option, name in (("TENANT", args.tenant), ("--priority", args.priority), ("--max-priority", args.max_priority)):
        if not _NAME.fullmatch(name) and (name or option == "TENANT"):
            hint = "Use small letters, digits, - and _, at most 48 of them."
            raise UsageError(f"{name!r} is not a name", where=option, hint=hint)
    for model in args.model:
        if not _MODEL.fullmatch(model):
            raise UsageError(f"{model!r} is not a model's name", where="--model")
    _check_label(args.label)
    expires_s = None if args.expires is None else expiry(args.expires, clock.unix_s())
    if expires_s is not None and expires_s <= clock.unix_s():
        raise UsageError(f"{args.expires} is over", where="--expires", hint="Name a time to come.")
    scopes = KeyScopes(
        models=frozenset(args.model) or None,
        priority=args.priority,
        max_priority=args.max_priority,
        is_admin=args.admin,
    )
    key, record = _store(args, clock).create(args.tenant, label=args.label, scopes=scopes, expires_unix_s=expires_s)
    return _print_new(key, record, args, clock)


def _ls(args: argparse.Namespace) -> int:
    clock = SystemClock()
    records = [record for record in _store(args, clock).all() if args.tenant in {None, record.tenant}]
    if args.json:
        return _print_json({"keys": [_shown(record, clock) for record in records]})
    table = Table()
    for title in ("key", "tenant", "label", "state", "models", "created", "expires"):
        table.add_column(title, no_wrap=title in {"key", "state", "created"}, overflow="fold")
    for record in records:
        models = record.scopes.models
        table.add_row(
            f"ls-{record.prefix}",
            escape(record.tenant),
            escape(record.label),
            record.state(clock.unix_s()).value,
            "all" if models is None else escape(", ".join(sorted(models))),
            _day(record.created_unix_s),
            _day(record.expires_unix_s),
        )
    print_table(table)
    return 0


def _show(args: argparse.Namespace) -> int:
    clock = SystemClock()
    return _print_record(_store(args, clock).get(args.key), args, clock)


def _rotate(args: argparse.Namespace) -> int:
    clock = SystemClock()
    try:
        grace_s = parse_duration_s(args.grace)
    except ValueError as error:
        raise UsageError(str(error), where="--grace", hint="Write a time like 24h, or 0s for none.") from error
    key, record = _store(args, clock).rotate(args.key, grace_s=grace_s)
    return _print_new(key, record, args, clock)


def _expire(args: argparse.Namespace) -> int:
    clock = SystemClock()
    record = _store(args, clock).expire(args.key, expiry(args.at, clock.unix_s()))
    return _print_record(record, args, clock)


def _changed(change: Callable[[KeyStore, str], KeyRecord], what: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        clock = SystemClock()
        record = change(_store(args, clock), args.key)
        if args.json:
            return _print_json(_shown(record, clock))
        sys.stdout.write(f"{what} ls-{record.prefix} of {record.tenant}\n")
        return 0

    return run


def _store(args: argparse.Namespace, clock: Clock) -> KeyStore:
    return KeyStore(args.file or keys_path(data_home(os.environ)), clock)


def _check_label(label: str) -> None:
    if len(label) > 200 or not label.isprintable():
        raise UsageError("a label is at most 200 printable characters", where="--label")


def _print_new(key: str, record: KeyRecord, args: argparse.Namespace, clock: Clock) -> int:
    if args.json:
        return _print_json({"key": key, **_shown(record, clock)})
    sys.stdout.write(f"{key}\n")
    sys.stderr.write("This is the only time that the key is shown.\n")
    return 0


def _print_record(record: KeyRecord, args: argparse.Namespace, clock: Clock) -> int:
    shown = _shown(record, clock)
    if args.json:
        return _print_json(shown)
    for name, value in shown.items():
        text = ", ".join(value) if isinstance(value, list) else "-" if value is None else str(value)
        sys.stdout.write(f"{name:<16}{text}\n")
    return 0


def _shown(record: KeyRecord, clock: Clock) -> dict[str, Any]:
    """A key as people may see it: without anything of its secret."""
    now_s, scopes = clock.unix_s(), record.scopes
    is_old_valid = record.old_digest is not None and now_s < record.old_until_unix_s
    return {
        "prefix": record.prefix,
        "tenant": record.tenant,
        "label": record.label,
        "state": record.state(now_s).value,
        "models": None if scopes.models is None else sorted(scopes.models),
        "priority": scopes.priority or None,
        "max_priority": scopes.max_priority or None,
        "admin": scopes.is_admin,
        "created": _moment(record.created_unix_s),
        "expires": _moment(record.expires_unix_s),
        "rotated": _moment(record.rotated_unix_s),
        "old_valid_until": _moment(record.old_until_unix_s) if is_old_valid else None,
    }


def _moment(unix_s: float | None) -> str | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC).isoformat(timespec="seconds")


def _day(unix_s: float | None) -> str:
    return "never" if unix_s is None else datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d")


def _print_json(content: dict[str, Any]) -> int:
    json.dump(content, sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0
