"""Reads the spec a command works on: file, environment and flags of this process."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lightship.errors import SpecError, UsageError
from lightship.spec.load import LoadedSpec, parse_spec
from lightship.spec.yaml_text import MAX_TEXT_BYTES

DEFAULT_FILE = Path("lightship.yaml")


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose and change the spec; `load_spec` reads them.

    Effects: changes `parser`.
    """
    parser.add_argument(
        "-f", "--file", type=Path, metavar="FILE", help="the spec; default: ./lightship.yaml if it is there"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        dest="overrides",
        metavar="PATH=VALUE",
        help="set one value, for example slo.ttft_ms=300; may be repeated",
    )


def load_spec(args: argparse.Namespace) -> LoadedSpec:
    """The spec that `args` (see `add_spec_options`), the environment and the file make together.

    Raises: UsageError: the named file cannot be read. SpecError: the spec is not acceptable.
    """
    named: Path | None = args.file
    file = named or DEFAULT_FILE
    text = read_spec_file(file) if named is not None or file.exists() else ""
    return parse_spec(text, origin=str(file), environment=os.environ, overrides=args.overrides)


def read_spec_file(file: Path) -> str:
    """The text of a spec file.

    Raises: UsageError: it is missing, a folder, or not readable. SpecError: it is not UTF-8 text, or far too long.
    """
    try:
        with file.open("rb") as opened:
            content = opened.read(MAX_TEXT_BYTES + 1)
    except FileNotFoundError as error:
        hint = "Check the path, or leave it out to use the defaults."
        raise UsageError("there is no such file", where=str(file), hint=hint) from error
    except OSError as error:
        hint = "Name a readable spec file."
        raise UsageError(f"cannot be read: {error.strerror}", where=str(file), hint=hint) from error
    if len(content) > MAX_TEXT_BYTES:
        raise SpecError(f"longer than {MAX_TEXT_BYTES} bytes", where=str(file), hint="Is this the spec?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise SpecError("not UTF-8 text", where=f"{file}:{line}", hint="Save the file as UTF-8.") from error
