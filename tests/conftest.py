"""What tests of several tiers share: the built-in model as an OpenVINO folder, and the shared test material."""

from __future__ import annotations

import os
from pathlib import Path

import hypothesis
import pytest

from lightship.artifacts.sources.builtin import builtin_checkpoint

pytest_plugins = ["tests.redis_server", "tests.deploy_cases"]

# Machines are shared: how long one example takes says nothing about the code.
hypothesis.settings.register_profile("shared-machine", deadline=None)
hypothesis.settings.load_profile("shared-machine")

SHARED_DATA = Path(os.environ.get("LIGHTSHIP_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def builtin_ir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model, assembled as an OpenVINO folder."""
    from lightship.compression.ir_template import assemble

    folder = tmp_path_factory.mktemp("builtin") / "fairytales"
    folder.mkdir()
    assemble(builtin_checkpoint("fairytales"), folder)
    return folder


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of test material that may not be handed on; tests that need it are skipped where it is not."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"NOT TESTED: {SHARED_DATA} is not there (set LIGHTSHIP_TEST_DATA to the folder of test material)")
    return SHARED_DATA
