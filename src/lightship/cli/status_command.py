"""`lightship status`: what runs on this machine, and whether it is healthy."""

from __future__ import annotations

import argparse
import os
import sys
import urllib.error
import urllib.request

import msgspec
from rich.table import Table

from lightship.artifacts.home import data_home
from lightship.cli.run_state import RunState, running_systems
from lightship.cli.tables import print_table

_HEALTH_TIMEOUT_S = 2.0


def add_status_command(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Registers `status`."""
    parser = subparsers.add_parser("status", help="what runs on this machine")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_status)


def _status(args: argparse.Namespace) -> int:
    systems = running_systems(data_home(os.environ))
    if args.json:
        rows = [{**msgspec.to_builtins(system), "health": _health_of(system)} for system in systems]
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode() + "\n")
        return 0
    if not systems:
        sys.stdout.write("nothing is running; start with `lightship up`\n")
        return 0
    table = Table("model", "process", "address", "variant", "pid", "health")
    for system in systems:
        health = _health_of(system)
        table.add_row(system.model, "gateway", system.gateway_url, "", str(system.pid), health["gateway"])
        for replica in system.replicas:
            row = ("", replica.name, replica.base_url, replica.variant, str(replica.pid), health[replica.name])
            table.add_row(*row)
    print_table(table)
    return 0


def _health_of(system: RunState) -> dict[str, str]:
    urls = {"gateway": system.gateway_url} | {replica.name: replica.base_url for replica in system.replicas}
    return {name: _health(url) for name, url in urls.items()}


def _health(base_url: str) -> str:
    """`ready`, `not ready` or `unreachable`."""
    try:
        with urllib.request.urlopen(f"{base_url}/health/ready", timeout=_HEALTH_TIMEOUT_S) as reply:
            return "ready" if reply.status == 200 else "not ready"
    except urllib.error.HTTPError as error:
        error.close()
        return "not ready"
    except OSError:
        return "unreachable"
