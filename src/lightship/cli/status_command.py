"""`lightship status`: what runs on this machine, and whether it is healthy."""

from __future__ import annotations

import argparse
import os
import ssl
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
    table = Table("model", "process", "address", "variant", "pid", "phase", "health")
    for system in systems:
        health = _health_of(system)
        table.add_row(system.model, "gateway", system.gateway_url, "", str(system.pid), "", health["gateway"])
        for replica in system.replicas:
            phase = f"{replica.phase} ({replica.detail})" if replica.detail else replica.phase
            pid = str(replica.pid) if replica.pid else ""
            row = ("", replica.name, replica.base_url, replica.variant, pid, phase, health[replica.name])
            table.add_row(*row)
    print_table(table)
    return 0


def _health_of(system: RunState) -> dict[str, str]:
    health = {"gateway": _health(system.gateway_url)}
    for replica in system.replicas:
        has_process = replica.pid or not replica.phase  # nobody is there to be asked where none was started
        health[replica.name] = _health(replica.base_url) if has_process else "-"
    return health


def _any_certificate() -> ssl.SSLContext:
    """Asks whoever is there: nothing is sent, and a gateway's certificate has its public name, not this address."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _health(base_url: str) -> str:
    """`ready`, `not ready` or `unreachable`."""
    try:
        url = f"{base_url}/health/ready"
        with urllib.request.urlopen(url, timeout=_HEALTH_TIMEOUT_S, context=_any_certificate()) as reply:
            return "ready" if reply.status == 200 else "not ready"
    except urllib.error.HTTPError as error:
        error.close()
        # most engines of others have no such path, which makes them ready, as for the gateway
        return "not ready" if error.code >= 500 and error.code != 501 else "ready"
    except OSError:
        return "unreachable"
