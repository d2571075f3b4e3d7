from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from lightship.artifacts.home import artifact_root
from lightship.artifacts.store import ArtifactStore, VariantDescription
from lightship.cli.artifact_commands import add_artifact_commands
from lightship.errors import ArtifactError
from lightship.ports.clock import SystemClock
from lightship.ports.variants import Recipe, Variant, WeightFormat


def lightship(*argv: str) -> int:
    parser = argparse.ArgumentParser()
    add_artifact_commands(parser.add_subparsers())
    args = parser.parse_args(["artifacts", *argv])
    code: int = args.run(args)
    return code


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArtifactStore:
    monkeypatch.setenv("LIGHTSHIP_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    return ArtifactStore(artifact_root(tmp_path), SystemClock())


def build(store: ArtifactStore, name: str) -> Variant:
    def describe(_: Path) -> VariantDescription:
        return VariantDescription(
            name=name,
            model_name="fairytales",
            weight_format=WeightFormat.OPENVINO_IR,
            parent_digest="sha256:parent",
            recipe=Recipe(name, ()),
            build_key=name,
            tool_versions={},
            weight_bytes=1024,
            num_parameters=1234567,
            context_length=64,
            source="s",
        )

    def write(folder: Path) -> None:
        (folder / "openvino_model.bin").write_bytes(name.encode().ljust(1024))

    return store.build(name, describe, write)


def test_ls_table_shows_each_variant(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    variant = build(store, "int8")
    assert lightship("ls") == 0
    shown = capsys.readouterr().out
    for text in (variant.manifest.short_digest, "int8", "fairytales", "openvino-ir", "1,234,567", "1.0 KiB"):
        assert text in shown


def test_ls_json_tells_of_damaged_ones_too(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    sound, damaged = build(store, "int8"), build(store, "int4")
    (damaged.folder / "manifest.json").write_text("{")
    assert lightship("ls", "--json") == 0
    content = json.loads(capsys.readouterr().out)
    assert [row["digest"] for row in content["variants"]] == [sound.manifest.digest]
    assert content["variants"][0]["bytes"] == 1024
    assert [row["folder"] for row in content["damaged"]] == [str(damaged.folder)]


def test_rm_name_or_prefix_of_a_damaged_one_removes_it(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, damaged = build(store, "int8"), build(store, "int4")
    (damaged.folder / "manifest.json").write_text("{")
    assert lightship("rm", "--json", "int8", damaged.folder.name[:12]) == 0
    removed = json.loads(capsys.readouterr().out)["removed"]
    assert [row["digest"] for row in removed] == [sound.manifest.digest, damaged.manifest.digest]
    assert (store.ls(), store.damaged()) == ([], [])


def test_rm_one_unknown_name_removes_nothing(store: ArtifactStore) -> None:
    build(store, "int8")
    with pytest.raises(ArtifactError, match="no variant 'int3'"):
        lightship("rm", "int8", "int3")
    assert len(store.ls()) == 1


def test_gc_kept_digest_stays(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    kept, orphan = build(store, "int8"), build(store, "int4")
    for record in (store.root / "builds").iterdir():
        record.unlink()
    assert lightship("gc", "--json", "--keep", kept.manifest.short_digest) == 0
    assert json.loads(capsys.readouterr().out)["freed_bytes"] > orphan.manifest.num_bytes
    assert store.ls() == [kept]


def test_verify_difference_gives_exit_code_4_and_names_the_file(
    store: ArtifactStore, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, damaged = build(store, "int8"), build(store, "int4")
    assert lightship("verify") == 0
    (damaged.folder / "openvino_model.bin").write_bytes(bytes(1024))
    assert lightship("verify", "int8") == 0
    capsys.readouterr()
    assert lightship("verify") == 4
    shown = capsys.readouterr().out
    assert f"ok      {sound.manifest.digest}" in shown
    assert f"failed  {damaged.manifest.digest}" in shown
    assert "openvino_model.bin" in shown
    assert lightship("verify", "--json") == 4
    assert json.loads(capsys.readouterr().out)["sound"] == [sound.manifest.digest]


def test_ls_empty_home_shows_an_empty_table(store: ArtifactStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert (lightship("ls", "--json"), store.root.exists()) == (0, False)
    assert json.loads(capsys.readouterr().out) == {"variants": [], "damaged": []}
