"""A worker of one variant for as long as a benchmark needs it, built and started as `lightship up` does."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from lightship.cli.prepare import build_variants, resolve_model, surroundings
from lightship.cli.variant_worker import started_worker
from lightship.spec.load import parse_spec


@asynccontextmanager
async def served_worker(spec: Mapping[str, Any]) -> AsyncIterator[str]:
    """The address of a worker of the spec's reference variant.

    Effects: builds the variant if it is not in the store (minutes, on first use); one worker process.
    """
    loaded = parse_spec(json.dumps(spec), origin="benchmark", environment=os.environ, overrides=[]).spec
    around = surroundings()
    built = build_variants(loaded, resolve_model(loaded, around), around)
    async with started_worker(loaded, built.reference, around) as worker:
        yield worker.base_url
