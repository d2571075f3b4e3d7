"""What `lightship deploy` renders for three specs, file by file: read them when they change.

UPDATE_GOLDENS=1 rewrites them and still fails, so that the change is looked at. Only files that say something new are
kept: the kustomize base repeats the plain folder, and images are the same everywhere.
"""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest
from tests.deploy_cases import CASES, built, input_of, spec_of

from lightship.deploy.render import render

GOLDENS = Path(__file__).resolve().parents[1] / "golden" / "deploy"
KUBERNETES = ("[0-9]*.yaml", "kustomize/overlays/*")
KEPT: dict[tuple[str, str], tuple[str, ...]] = {
    ("cpu", "kubernetes"): KUBERNETES,
    ("cpu", "compose"): ("compose.yaml", "config/prometheus.yml", "images/*"),
    ("cpu", "systemd"): ("*.service", "*.target", "install.sh", "*worker.json"),
    ("gpu", "kubernetes"): ("1*.yaml", "3*.yaml", "5*.yaml", "kustomize/overlays/*", "images/*"),
    ("gpu", "compose"): ("compose.yaml",),
    ("gpu", "kserve"): ("10-services.yaml",),
    ("gpu", "ray"): ("serve.yaml", "ray-service.yaml"),
    ("edge", "kubernetes"): ("2*.yaml", "5*.yaml"),
    ("edge", "knative"): ("20-service.yaml",),
    ("edge", "systemd"): ("*.service",),
}


@pytest.mark.parametrize(("case", "platform"), KEPT)
def test_deploy_golden_files_are_current(case: str, platform: str, deploy_home: Path) -> None:
    changes = {"gateway__tls": None} if platform == "knative" else {}
    around = built(input_of(spec_of(CASES[case], **changes), deploy_home, platform=platform))
    rendered = render(platform, around)
    current = {
        one.path: one.content
        for one in rendered.documents
        if any(fnmatch(one.path, pattern) for pattern in KEPT[case, platform])
    }
    assert current
    folder = GOLDENS / case / platform
    kept = {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}
    if os.environ.get("UPDATE_GOLDENS") == "1":
        shutil.rmtree(folder, ignore_errors=True)
        for path, content in current.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(content, encoding="utf-8")
    assert kept == current, "the rendered files changed; `make goldens` rewrites them, then read the difference"


@pytest.mark.parametrize("case", CASES)
def test_deploy_same_input_gives_the_same_bytes(case: str, deploy_home: Path) -> None:
    first, second = (render("kubernetes", input_of(spec_of(CASES[case]), deploy_home)) for _ in range(2))
    assert first == second
