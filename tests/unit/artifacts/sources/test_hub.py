"""Against a stand-in on the loopback interface that speaks the part of the hub's HTTP interface a download uses."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lightship.artifacts.sources.hub import fetch_hub
from lightship.errors import CheckpointError, NetworkError, StorageFullError, UsageError
from lightship.ports.progress import SilentProgress
from lightship.spec.source import HubSource
from lightship.testing.recording_progress import RecordingProgress

pytest.importorskip("huggingface_hub", reason="NOT TESTED: the extra `hub` is not installed")

COMMIT, NEXT_COMMIT = "a" * 40, "b" * 40
REPOSITORY = "org/tiny"
FILES = {
    "config.json": b'{"architectures": ["LlamaForCausalLM"]}',
    "model.safetensors": bytes(50_000),
    "sub/openvino_model.bin": b"constants",
    "odd[1].json": b"{}",
    "pytorch_model.bin": b"PK\x03\x04",
    "modeling_tiny.py": b"raise SystemExit",
    ".gitattributes": b"*.bin",
    "training_args.pt": b"\x80\x02.",
}
WANTED = {"config.json", "model.safetensors", "sub/openvino_model.bin", "odd[1].json"}


class StandInHub:
    """The repository's state, and the requests that were made."""

    def __init__(self) -> None:
        self.commit = COMMIT
        self.files = dict(FILES)
        self.requests: list[str] = []
        self.endpoint = ""
        self.error: tuple[int, str] | None = None
        self.served: dict[str, bytes] = {}

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET."""
        self.requests.append(path)
        api, name = f"/api/models/{REPOSITORY}", path.partition("/resolve/")[2].partition("/")[2]
        if self.error is not None:
            status, code = self.error
            return status, {"X-Error-Code": code, "X-Error-Message": code}, b"{}"
        if path in {f"{api}/revision/main", f"{api}/revision/{self.commit}"}:
            return 200, {}, json.dumps(self._info()).encode()
        if path.startswith(f"{api}/revision/"):
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        if path == f"{api}/tree/{self.commit}":
            return 200, {}, json.dumps([{"type": "file", "oid": "0", **self._size(n)} for n in self.files]).encode()
        if path.startswith(f"/{REPOSITORY}/resolve/{self.commit}/") and name in self.files:
            body = self.served.get(name, self.files[name])
            etag = hashlib.sha256(self.files[name]).hexdigest()
            return 200, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}, body
        return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"

    def downloads(self) -> set[str]:
        """Names of the files that were asked for."""
        return {p.partition("/resolve/")[2].partition("/")[2] for p in self.requests if "/resolve/" in p}

    def _info(self) -> dict[str, object]:
        siblings = [{"rfilename": name, "size": len(data), "blobId": "0"} for name, data in self.files.items()]
        for sibling in siblings:
            if sibling["rfilename"] == "model.safetensors":
                sha256 = hashlib.sha256(self.files["model.safetensors"]).hexdigest()
                sibling["lfs"] = {"size": sibling["size"], "sha256": sha256, "pointerSize": 130}
        return {
            "id": REPOSITORY,
            "sha": self.commit,
            "private": False,
            "tags": [],
            "downloads": 0,
            "siblings": siblings,
        }

    def _size(self, name: str) -> dict[str, object]:
        return {"path": name, "size": len(self.files[name])}


def stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no telemetry, no transfer service beside the endpoint, and not the library's own offline mode."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in (("DISABLE_TELEMETRY", True), ("DISABLE_XET", True), ("OFFLINE", False)):
        monkeypatch.setattr(f"huggingface_hub.constants.HF_HUB_{name}", value)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    state = StandInHub()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply(with_body=True)

        def do_HEAD(self) -> None:
            self._reply(with_body=False)

        def _reply(self, *, with_body: bool) -> None:
            status, headers, body = state.answer(unquote(urlsplit(self.path).path))
            self.send_response(status)
            for key, value in {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing."""

    stay_on_this_machine(monkeypatch)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_endpoint(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address on this machine where nothing listens."""
    stay_on_this_machine(monkeypatch)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def fetch(endpoint: str, cache: Path, revision: str = "main") -> Path:
    return fetch_hub(HubSource(REPOSITORY, revision), cache=cache, progress=SilentProgress(), endpoint=endpoint)


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_fetch_brings_weights_and_text_and_nothing_that_runs(hub: StandInHub, tmp_path: Path, revision: str) -> None:
    folder = fetch(hub.endpoint, tmp_path, revision)
    assert folder == tmp_path / "org--tiny" / COMMIT
    assert content(folder) == {name: FILES[name] for name in WANTED}
    assert hub.downloads() == WANTED
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_fetch_pinned_commit_that_is_there_needs_no_network(
    hub: StandInHub, tmp_path: Path, closed_endpoint: str
) -> None:
    folder = fetch(hub.endpoint, tmp_path, COMMIT)
    assert fetch(closed_endpoint, tmp_path, COMMIT) == folder


def test_fetch_branch_again_asks_for_its_commit_only(hub: StandInHub, tmp_path: Path) -> None:
    folder = fetch(hub.endpoint, tmp_path)
    hub.requests.clear()
    assert fetch(hub.endpoint, tmp_path) == folder
    assert hub.requests == [f"/api/models/{REPOSITORY}/revision/main"]


def test_fetch_branch_that_moved_gives_a_new_folder(hub: StandInHub, tmp_path: Path) -> None:
    fetch(hub.endpoint, tmp_path)
    hub.commit = NEXT_COMMIT
    hub.files["config.json"] = b"{}"
    folder = fetch(hub.endpoint, tmp_path)
    assert (folder.name, (folder / "config.json").read_bytes()) == (NEXT_COMMIT, b"{}")
    assert (tmp_path / "org--tiny" / COMMIT / "config.json").read_bytes() == FILES["config.json"]


def test_fetch_branch_without_network_uses_the_last_commit_and_says_so(
    hub: StandInHub, tmp_path: Path, closed_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = fetch(hub.endpoint, tmp_path)
    with caplog.at_level(logging.WARNING, logger="lightship"):
        assert fetch(closed_endpoint, tmp_path) == folder
    assert f"using commit {COMMIT[:12]}" in caplog.text


def test_fetch_hub_unreachable_is_a_network_error_with_a_way_out(tmp_path: Path, closed_endpoint: str) -> None:
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        fetch(closed_endpoint, tmp_path)
    assert closed_endpoint in caught.value.what
    assert "folder as the source" in str(caught.value.hint)


def test_fetch_hub_that_fails_is_a_network_error(hub: StandInHub, tmp_path: Path) -> None:
    hub.error = (500, "")
    with pytest.raises(NetworkError):
        fetch(hub.endpoint, tmp_path)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "no such repository .*HF_TOKEN"),
        (404, "RepoNotFound", "no such repository"),
        (403, "GatedRepo", "gated.*HF_TOKEN"),
        (404, "RevisionNotFound", "no revision 'main'"),
    ],
)
def test_fetch_refusal_of_the_hub_is_explained(
    hub: StandInHub, tmp_path: Path, status: int, code: str, message: str
) -> None:
    hub.error = (status, code)
    with pytest.raises(CheckpointError, match=message) as caught:
        fetch(hub.endpoint, tmp_path)
    assert caught.value.where == "hf:org/tiny@main"


@pytest.mark.parametrize("revision", ["v2", "c" * 40])
def test_fetch_missing_revision_is_named(hub: StandInHub, tmp_path: Path, revision: str) -> None:
    with pytest.raises(CheckpointError, match=f"no revision '{revision}'"):
        fetch(hub.endpoint, tmp_path, revision)


def test_fetch_repository_of_pickles_is_refused_before_any_download(hub: StandInHub, tmp_path: Path) -> None:
    hub.files = {"pytorch_model.bin": b"PK\x03\x04", "x.py": b""}
    with pytest.raises(CheckpointError, match="no safetensors"):
        fetch(hub.endpoint, tmp_path)
    assert hub.downloads() == set()


def test_fetch_file_that_leaves_the_folder_is_refused(hub: StandInHub, tmp_path: Path) -> None:
    hub.files = {"../../config.json": b"{}"}
    with pytest.raises(Exception, match="not a path inside"):
        fetch(hub.endpoint, tmp_path)


def test_fetch_other_content_than_described_is_refused_and_fetched_anew(hub: StandInHub, tmp_path: Path) -> None:
    hub.served = {"model.safetensors": b"\x01" * 50_000}
    with pytest.raises(CheckpointError, match=r"content of model\.safetensors"):
        fetch(hub.endpoint, tmp_path)
    assert not (tmp_path / "org--tiny" / COMMIT).exists()
    hub.served = {}
    hub.requests.clear()
    assert content(fetch(hub.endpoint, tmp_path)) == {name: FILES[name] for name in WANTED}
    assert hub.downloads() == {"model.safetensors"}


def test_fetch_larger_than_the_disk_is_refused_before_any_download(hub: StandInHub, tmp_path: Path) -> None:
    hub.files = {"model.safetensors": b"x"}
    hub._size = lambda name: {"path": name, "size": 1}  # type: ignore[method-assign]
    info = hub._info()
    info["siblings"] = [{"rfilename": "model.safetensors", "size": 2**62}]
    hub._info = lambda: info  # type: ignore[method-assign]
    with pytest.raises(StorageFullError, match="are needed"):
        fetch(hub.endpoint, tmp_path)
    assert hub.downloads() == set()


def test_fetch_progress_ends_at_the_number_of_bytes(hub: StandInHub, tmp_path: Path) -> None:
    progress = RecordingProgress()
    fetch_hub(HubSource(REPOSITORY, "main"), cache=tmp_path, progress=progress, endpoint=hub.endpoint)
    total = float(sum(len(FILES[name]) for name in WANTED))
    assert progress.titles == ["fetching hf:org/tiny@main"]
    assert progress.advances[-1] == (total, total)
    assert len(progress.advances) > 2
    assert all(done <= total for done, _ in progress.advances)


def test_fetch_without_the_library_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"lightship\[hub\]"):
        fetch("http://127.0.0.1:1", tmp_path)
