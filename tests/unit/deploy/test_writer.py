"""Writing: into what is new, empty or ours; nothing of others is touched."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from lightship.deploy.document import Document, Rendered
from lightship.deploy.writer import MARKER, write_rendered
from lightship.errors import UsageError


def rendered(*documents: Document, platform: str = "kubernetes") -> Rendered:
    return Rendered(platform, documents, (), ())


ONE = Document("10-one.yaml", "one\n")
TWO = Document("images/build.sh", "#!/bin/sh\n", is_executable=True)


def content(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != MARKER]
    return {str(path.relative_to(folder)): path.read_text("utf-8") for path in files}


def test_writer_new_folder_holds_the_documents_and_nothing_half_written(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "out"
    write_rendered(rendered(ONE, TWO), folder)
    assert content(folder) == {"10-one.yaml": "one\n", "images/build.sh": "#!/bin/sh\n"}
    assert (folder / "images/build.sh").stat().st_mode & stat.S_IXUSR
    assert not (folder / "10-one.yaml").stat().st_mode & stat.S_IXUSR


def test_writer_second_time_replaces_and_removes_what_is_no_longer_rendered(tmp_path: Path) -> None:
    write_rendered(rendered(ONE, TWO), tmp_path)
    written = write_rendered(rendered(Document("10-one.yaml", "other\n")), tmp_path)
    assert content(tmp_path) == {"10-one.yaml": "other\n"}
    assert written.removed == ("images/build.sh",)
    assert not (tmp_path / "images").exists()


def test_writer_what_was_changed_by_hand_and_is_no_longer_rendered_is_kept(tmp_path: Path) -> None:
    write_rendered(rendered(ONE, TWO), tmp_path)
    (tmp_path / "images/build.sh").write_text("mine\n", "utf-8")
    written = write_rendered(rendered(ONE), tmp_path)
    assert written.kept == ("images/build.sh",)
    assert content(tmp_path)["images/build.sh"] == "mine\n"


def test_writer_own_files_beside_ours_are_never_touched(tmp_path: Path) -> None:
    write_rendered(rendered(ONE), tmp_path)
    (tmp_path / "mine.yaml").write_text("mine\n", "utf-8")
    write_rendered(rendered(ONE, TWO), tmp_path)
    assert content(tmp_path)["mine.yaml"] == "mine\n"


def test_writer_folder_of_others_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "theirs.yaml").write_text("theirs\n", "utf-8")
    with pytest.raises(UsageError, match="was not written by `lightship deploy`"):
        write_rendered(rendered(ONE), tmp_path)
    assert content(tmp_path) == {"theirs.yaml": "theirs\n"}


def test_writer_file_of_others_in_the_place_of_ours_is_refused(tmp_path: Path) -> None:
    write_rendered(rendered(ONE), tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/build.sh").write_text("theirs\n", "utf-8")
    with pytest.raises(UsageError, match="did not write"):
        write_rendered(rendered(ONE, TWO), tmp_path)
    assert content(tmp_path)["images/build.sh"] == "theirs\n"


def test_writer_other_platform_in_our_folder_is_refused(tmp_path: Path) -> None:
    write_rendered(rendered(ONE), tmp_path)
    with pytest.raises(UsageError, match="rendered for kubernetes, and this is for compose"):
        write_rendered(rendered(ONE, platform="compose"), tmp_path)


def test_writer_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file", "utf-8")
    with pytest.raises(UsageError, match="it is a file"):
        write_rendered(rendered(ONE), tmp_path / "out")


@pytest.mark.parametrize("path", ["../outside.yaml", "/etc/outside.yaml", ""])
def test_writer_marker_that_points_outside_is_not_ours(path: str, tmp_path: Path) -> None:
    outside = tmp_path / "outside.yaml"
    outside.write_text("theirs\n", "utf-8")
    folder = tmp_path / "out"
    folder.mkdir()
    marker = {"managed_by": "lightship", "platform": "kubernetes", "files": {path: "0" * 64}}
    (folder / MARKER).write_text(json.dumps(marker), "utf-8")
    with pytest.raises(UsageError, match="was not written by"):
        write_rendered(rendered(ONE), folder)
    assert outside.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": 5}', '{"managed_by": "x", "files": {}}'])
def test_writer_damaged_marker_is_not_ours(text: str, tmp_path: Path) -> None:
    (tmp_path / MARKER).write_text(text, "utf-8")
    with pytest.raises(UsageError, match="was not written by"):
        write_rendered(rendered(ONE), tmp_path)
