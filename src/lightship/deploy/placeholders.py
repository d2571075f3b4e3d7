"""Puts a platform's paths and addresses into commands and files, where a deployment has placeholders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lightship.ports.deployment import DeployedGateway, DeployedRung

_PLACEHOLDER = re.compile(r"\{([a-z]+(?:-[0-9]+)?)\}")


@dataclass(frozen=True)
class Places:
    """Where a platform has things: values of the placeholders without their braces."""

    values: Mapping[str, str]

    def fill(self, text: str) -> str:
        """The text with its placeholders replaced; other braces (JSON has many) stay.

        Raises: KeyError: a placeholder that this platform gives no value for, which is a mistake of a renderer.
        """
        return _PLACEHOLDER.sub(lambda match: self.values[match[1]], text)


def rung_places(rung: DeployedRung, **paths: str) -> Places:
    """For a rung: its port, and what the platform says."""
    return Places({"port": str(rung.port), **paths})


def gateway_places(gateway: DeployedGateway, urls: list[str], **paths: str) -> Places:
    """For the gateway: its port, the rungs' base URLs, and what the platform says."""
    rungs = {f"rung-{position}": url for position, url in enumerate(urls)}
    return Places({"port": str(gateway.port), **rungs, **paths})


def filled_command(command: tuple[str, ...], places: Places) -> list[str]:
    """The command as it is run."""
    return [places.fill(word) for word in command]


def filled_files(files: Mapping[str, str], places: Places) -> dict[str, str]:
    """The files as they are read, by name in order."""
    return {name: places.fill(files[name]) for name in sorted(files)}
