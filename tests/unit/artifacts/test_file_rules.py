from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import pytest

from lightship.artifacts.file_rules import check_variant_file
from lightship.errors import UnsafeCheckpointError


@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.bin",
        "a.pt",
        "a.pth",
        "a.ckpt",
        "a.PKL",
        "a.npy",
        "modeling.py",
        "a.so",
        "a.exe",
        "x",
    ],
)
def test_check_variant_file_name_of_code_or_pickle_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"harmless")
    with pytest.raises(UnsafeCheckpointError):
        check_variant_file(tmp_path / name)


@pytest.mark.parametrize(
    "name",
    [
        "model.safetensors",
        "openvino_model.bin",
        "openvino_model.xml",
        "config.json",
        "merges.txt",
        "LICENSE",
        "m.gguf",
        "curve.jsonl",
    ],
)
def test_check_variant_file_content_of_models_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"{}")
    check_variant_file(tmp_path / name)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["openvino_model.bin", "model.safetensors", "config.json"])
def test_check_variant_file_pickle_with_innocent_name_is_refused(tmp_path: Path, name: str, protocol: int) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"weights": [1.0] * 9}, protocol=protocol))
    with pytest.raises(UnsafeCheckpointError, match="pickle"):
        check_variant_file(tmp_path / name)


def test_check_variant_file_zip_with_innocent_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "openvino_model.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"")
    with pytest.raises(UnsafeCheckpointError, match="zip"):
        check_variant_file(path)


def test_check_variant_file_safetensors_with_length_like_a_pickle_is_accepted(tmp_path: Path) -> None:
    # A header of 640 bytes begins with 80 02, and weights may end with any byte.
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x80\x02" + bytes(6) + b"{}".ljust(640) + b".")
    check_variant_file(path)
