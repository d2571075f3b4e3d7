"""Rendered files before the tools that read them: kubectl's kustomize, systemd-analyze, docker compose, a shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.deploy_cases import CASES, built, input_of, spec_of
from tests.deploy_schemas import VERSIONS, schema_errors

from lightship.deploy.check import resource_problems
from lightship.deploy.render import render
from lightship.deploy.writer import write_rendered

# Known since systemd 254; before, it says that it ignores them.
NEW_KEYS = ("RestartSteps", "RestartMaxDelaySec")


def tool(name: str, *probe: str) -> str:
    """Path of a program; the test is skipped loudly where it is not there, or lacks what is asked."""
    path = shutil.which(name)
    if path is None or subprocess.run([path, *probe], capture_output=True, check=False).returncode != 0:
        pytest.skip(f"NOT TESTED: `{' '.join([name, *probe])}` does not work here")
    return path


def written(case: str, platform: str, home: Path, folder: Path, **changes: object) -> Path:
    write_rendered(render(platform, built(input_of(spec_of(CASES[case], **changes), home, platform=platform))), folder)
    return folder


# Neither OpenVINO's nor llama.cpp's engines here run on a GPU.
OVERLAYS = [("cpu", "cpu"), ("cpu", "spot"), ("gpu", "cpu"), ("gpu", "gpu"), ("gpu", "spot"), ("edge", "cpu")]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "overlay"), OVERLAYS)
def test_kustomize_builds_each_overlay_into_right_resources(
    case: str, overlay: str, deploy_home: Path, tmp_path: Path
) -> None:
    kubectl = tool("kubectl", "kustomize", "--help")
    folder = written(case, "kubernetes", deploy_home, tmp_path / "out")
    target = folder / "kustomize/overlays" / overlay
    result = subprocess.run([kubectl, "kustomize", str(target)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    resources = list(yaml.safe_load_all(result.stdout))
    assert [error for one in resources for error in schema_errors(one, VERSIONS[-1])] == []
    assert resource_problems(resources, version="v1.35") == ()
    plain = [one for file in folder.glob("*.yaml") for one in yaml.safe_load_all(file.read_text("utf-8"))]
    assert {(one["kind"], one["metadata"]["name"]) for one in resources} == {
        (one["kind"], one["metadata"]["name"]) for one in plain
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_kustomize_overlay_of_the_specs_hardware_is_what_the_plain_folder_says(
    case: str, deploy_home: Path, tmp_path: Path
) -> None:
    kubectl = tool("kubectl", "kustomize", "--help")
    folder = written(case, "kubernetes", deploy_home, tmp_path / "out")
    own = "gpu" if case == "gpu" else "cpu"
    command = [kubectl, "kustomize", str(folder / "kustomize/overlays" / own)]
    built_text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    plain = [one for file in sorted(folder.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text("utf-8"))]

    def by_name(resources: list[dict[str, object]]) -> dict[str, object]:
        return {f"{one['kind']}/{one['metadata']['name']}": _sorted_env(one) for one in resources}  # type: ignore[index]

    assert by_name(list(yaml.safe_load_all(built_text))) == by_name(plain)


def _sorted_env(node: object) -> object:
    """The order of variables says nothing here; kustomize changes it."""
    if isinstance(node, dict):
        return {
            key: sorted(value, key=lambda one: str(one["name"])) if key == "env" else _sorted_env(value)
            for key, value in node.items()
        }
    return [_sorted_env(one) for one in node] if isinstance(node, list) else node


def test_kustomize_overlay_that_no_engine_can_run_on_is_not_rendered(deploy_home: Path, tmp_path: Path) -> None:
    folder = written("cpu", "kubernetes", deploy_home, tmp_path / "out")
    assert sorted(path.name for path in (folder / "kustomize/overlays").iterdir()) == ["cpu", "spot"]


def test_systemd_units_are_understood(deploy_home: Path, tmp_path: Path) -> None:
    analyze = tool("systemd-analyze", "--version")
    program = shutil.which("true") or "/bin/true"
    changes = {"deploy__systemd": {"python": program, "llama_server": program, "pin_cores": True}}
    for case in ("cpu", "edge"):
        folder = written(case, "systemd", deploy_home, tmp_path / case, **changes)
        units = sorted((folder / "etc/systemd/system").iterdir())
        command = [analyze, "verify", "--man=no", *map(str, units)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        said = [line for line in result.stderr.splitlines() if not any(key in line for key in NEW_KEYS)]
        ours = [line for line in said if "storyteller" in line]
        assert ours == []


def test_systemd_verify_finds_a_wrong_unit(tmp_path: Path) -> None:
    """Otherwise the test above could not fail."""
    analyze = tool("systemd-analyze", "--version")
    unit = tmp_path / "storyteller.service"
    unit.write_text("[Service]\nType=nonsense\nExecStart=/bin/true\n", "utf-8")
    result = subprocess.run([analyze, "verify", "--man=no", str(unit)], capture_output=True, text=True, check=False)
    assert "storyteller.service" in result.stderr


@pytest.mark.parametrize("case", CASES)
def test_compose_reads_its_file(case: str, deploy_home: Path, tmp_path: Path) -> None:
    docker = tool("docker", "compose", "version")
    folder = written(case, "compose", deploy_home, tmp_path / "out")
    command = [docker, "compose", "--file", str(folder / "compose.yaml"), "config", "--quiet"]
    environment = {"CLOUD_KEY": "x", "PATH": "/usr/bin:/bin"}
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("platform", "script"), [("kubernetes", "images/build.sh"), ("systemd", "install.sh")])
def test_scripts_are_read_by_a_shell(platform: str, script: str, deploy_home: Path, tmp_path: Path) -> None:
    folder = written("cpu", platform, deploy_home, tmp_path / "out")
    shell = shutil.which("sh") or "/bin/sh"
    result = subprocess.run([shell, "-n", str(folder / script)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
