"""Files of data sets, against a stand-in on the loopback interface that speaks the hub's HTTP interface."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from lightship.artifacts.sources.hub import fetch_dataset_file
from lightship.errors import MeasurementError, NetworkError
from lightship.ports.progress import SilentProgress
from lightship.spec.source import HubSource

pytest.importorskip("huggingface_hub", reason="NOT TESTED: the extra `hub` is not installed")

COMMIT, NEXT_COMMIT = "a" * 40, "b" * 40
REPOSITORY = "org/questions"
FILES = {"data/test.jsonl": b'{"id": 1}\n', "data/dev.jsonl": b'{"id": 2}\n', "loader.py": b"raise SystemExit"}


class StandInHub:
    """The data set's state, and the requests that were made."""

    def __init__(self) -> None:
        self.commit = COMMIT
        self.files = dict(FILES)
        self.served: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.endpoint = ""
        self.error: tuple[int, str] | None = None

    def answer(self, path: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body for a GET."""
        self.requests.append(path)
        api, name = f"/api/datasets/{REPOSITORY}", path.partition("/resolve/")[2].partition("/")[2]
        if self.error is not None:
            return self.error[0], {"X-Error-Code": self.error[1], "X-Error-Message": self.error[1]}, b"{}"
        if path in {f"{api}/revision/main", f"{api}/revision/{self.commit}"}:
            siblings = [{"rfilename": name, "size": len(data), "blobId": "0"} for name, data in self.files.items()]
            for sibling in siblings:
                sha256 = hashlib.sha256(self.files[str(sibling["rfilename"])]).hexdigest()
                sibling["lfs"] = {"size": sibling["size"], "sha256": sha256, "pointerSize": 130}
            info = {"id": REPOSITORY, "sha": self.commit, "private": False, "tags": [], "siblings": siblings}
            return 200, {}, json.dumps({**info, "downloads": 0}).encode()
        if path.startswith(f"/datasets/{REPOSITORY}/resolve/{self.commit}/") and name in self.files:
            etag = hashlib.sha256(self.files[name]).hexdigest()
            headers = {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit}
            return 200, headers, self.served.get(name, self.files[name])
        return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"

    def downloads(self) -> set[str]:
        """Names of the files that were asked for."""
        return {p.partition("/resolve/")[2].partition("/")[2] for p in self.requests if "/resolve/" in p}


@pytest.fixture(autouse=True)
def stay_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, no telemetry, no transfer service beside the endpoint, and not the library's own offline mode."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for name, value in (("DISABLE_TELEMETRY", True), ("DISABLE_XET", True), ("OFFLINE", False)):
        monkeypatch.setattr(f"huggingface_hub.constants.HF_HUB_{name}", value)


@pytest.fixture
def hub() -> Iterator[StandInHub]:
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

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def closed_endpoint() -> str:
    """An address on this machine where nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def fetch(endpoint: str, cache: Path, name: str = "data/test.jsonl", revision: str = "main") -> Path:
    source = HubSource(REPOSITORY, revision)
    return fetch_dataset_file(source, name, cache=cache, progress=SilentProgress(), endpoint=endpoint)


@pytest.mark.parametrize("revision", ["main", COMMIT])
def test_fetch_dataset_file_brings_that_file_alone(hub: StandInHub, tmp_path: Path, revision: str) -> None:
    path = fetch(hub.endpoint, tmp_path, revision=revision)
    assert path == tmp_path / "datasets" / "org--questions" / COMMIT / "data" / "test.jsonl"
    assert path.read_bytes() == FILES["data/test.jsonl"]
    assert not path.is_symlink()
    assert hub.downloads() == {"data/test.jsonl"}


def test_fetch_dataset_file_second_file_of_a_commit_joins_the_first(hub: StandInHub, tmp_path: Path) -> None:
    first = fetch(hub.endpoint, tmp_path)
    second = fetch(hub.endpoint, tmp_path, "data/dev.jsonl")
    assert (first.read_bytes(), second.read_bytes()) == (FILES["data/test.jsonl"], FILES["data/dev.jsonl"])
    assert first.parent == second.parent


def test_fetch_dataset_file_pinned_file_that_is_there_needs_no_network(
    hub: StandInHub, tmp_path: Path, closed_endpoint: str
) -> None:
    path = fetch(hub.endpoint, tmp_path, revision=COMMIT)
    assert fetch(closed_endpoint, tmp_path, revision=COMMIT) == path
    with pytest.raises(NetworkError, match="cannot be reached") as caught:
        fetch(closed_endpoint, tmp_path, "data/dev.jsonl", revision=COMMIT)
    assert "give its name in the task" in str(caught.value.hint)


def test_fetch_dataset_file_branch_without_network_uses_the_last_commit_and_says_so(
    hub: StandInHub, tmp_path: Path, closed_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = fetch(hub.endpoint, tmp_path)
    with caplog.at_level(logging.WARNING, logger="lightship"):
        assert fetch(closed_endpoint, tmp_path) == path
    assert f"using commit {COMMIT[:12]}" in caplog.text


def test_fetch_dataset_file_branch_that_moved_gives_the_new_file(hub: StandInHub, tmp_path: Path) -> None:
    fetch(hub.endpoint, tmp_path)
    hub.commit, hub.files = NEXT_COMMIT, {"data/test.jsonl": b'{"id": 3}\n'}
    path = fetch(hub.endpoint, tmp_path)
    assert (path.parents[1].name, path.read_bytes()) == (NEXT_COMMIT, b'{"id": 3}\n')


def test_fetch_dataset_file_missing_file_names_the_nearest(hub: StandInHub, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"no file 'data/tests\.jsonl'.*data/test\.jsonl") as caught:
        fetch(hub.endpoint, tmp_path, "data/tests.jsonl")
    assert caught.value.where == "hf:org/questions@main"
    assert hub.downloads() == set()


def test_fetch_dataset_file_program_is_refused_before_any_request(hub: StandInHub, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match=r"'loader\.py' is not a known kind"):
        fetch(hub.endpoint, tmp_path, "loader.py")
    assert hub.requests == []


def test_fetch_dataset_file_name_that_leaves_the_folder_is_refused(hub: StandInHub, tmp_path: Path) -> None:
    with pytest.raises(Exception, match="not a path inside"):
        fetch(hub.endpoint, tmp_path, "../../test.jsonl")
    assert hub.requests == []


def test_fetch_dataset_file_other_content_than_described_is_refused_and_fetched_anew(
    hub: StandInHub, tmp_path: Path
) -> None:
    hub.served = {"data/test.jsonl": b'{"id": 9}\n'}
    with pytest.raises(MeasurementError, match=r"content of data/test\.jsonl"):
        fetch(hub.endpoint, tmp_path)
    hub.served = {}
    assert fetch(hub.endpoint, tmp_path).read_bytes() == FILES["data/test.jsonl"]


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "RepoNotFound", "no such repository .*HF_TOKEN"),
        (403, "GatedRepo", "gated.*/datasets/org/questions.*HF_TOKEN"),
        (404, "RevisionNotFound", "no revision 'main'"),
    ],
)
def test_fetch_dataset_file_refusal_of_the_hub_is_explained(
    hub: StandInHub, tmp_path: Path, status: int, code: str, message: str
) -> None:
    hub.error = (status, code)
    with pytest.raises(MeasurementError, match=message):
        fetch(hub.endpoint, tmp_path)
