"""Fetches checkpoints and files of data sets from a Hugging Face hub, once per commit.

    <cache>/<org>--<name>/<commit>/           complete: appears by rename
    <cache>/<org>--<name>/<commit>.partial/   under way; the next call continues it
    <cache>/<org>--<name>/refs/<revision>     the commit that a branch or tag last named
    <cache>/datasets/<org>--<name>/...        the same, but each file appears by itself, when it is asked for

Of a checkpoint only weights without code and plain text are asked for, so neither a pickle nor a program reaches the
disk. Real files rather than the hub library's own cache of links: a checkpoint folder can then be moved, mounted and
hashed as it is.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from lightship.artifacts.digest import check_relative, file_sha256
from lightship.artifacts.disk import check_free, full_disk_as_storage_error
from lightship.artifacts.file_rules import is_content
from lightship.artifacts.locks import LockTimeoutError, wait_lock
from lightship.errors import ArtifactError, CheckpointError, MeasurementError, NetworkError, UsageError
from lightship.ports.clock import Clock, SystemClock
from lightship.ports.progress import Progress, Task
from lightship.spec.source import HubSource

_LOGGER = logging.getLogger(__name__)
# The hub answers questions about a repository within a second or two; a download has its own, per-read limit.
_INFO_TIMEOUT_S = 15.0
_MAX_WAIT_S = 4 * 3600.0


# Kinds of files that hold items of a data set; what reads them is the business of `evaluation.tasks`.
_DATA_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")


@dataclass(frozen=True)
class _Kind:
    """What differs between the hub's kinds of repositories: their addresses, and what we say when one fails."""

    address_prefix: str
    refusal: type[CheckpointError | MeasurementError]
    way_round: str


_MODEL = _Kind("", CheckpointError, "fetch the checkpoint elsewhere and use its folder as the source")
_DATASET = _Kind("datasets/", MeasurementError, "download the file elsewhere and give its name in the task")


@dataclass(frozen=True)
class _RemoteFile:
    path: str
    num_bytes: int
    sha256: str | None


@dataclass(frozen=True)
class _Snapshot:
    commit: str
    files: tuple[_RemoteFile, ...]


def fetch_hub(
    source: HubSource, *, cache: Path, progress: Progress, clock: Clock | None = None, endpoint: str | None = None
) -> Path:
    """The checkpoint's folder, with the repository's content at the source's revision.

    A pinned commit that is there already needs no network. A branch or tag is looked up every time; while the hub
    cannot be reached, the commit it last named is used, and a warning in the log says so.

    Args:
        clock: Limits the wait for another process that fetches the same; the machine's own by default.
        endpoint: Address of the hub; `None` is the library's default, which `HF_ENDPOINT` can change.

    Raises:
        UsageError: the hub library is not installed.
        NetworkError: the hub cannot be reached, or failed.
        CheckpointError: no such repository or revision, no access, or the download is not what the hub described.
        StorageFullError: the disk is full; what was fetched stays for the next call.
    Effects: downloads below `cache`.
    """
    repository = cache / source.repository.replace("/", "--")
    if source.is_pinned and (repository / source.revision).is_dir():
        return repository / source.revision
    reference = repository / "refs" / quote(source.revision, safe="")
    try:
        snapshot = _ask(source, endpoint)
    except NetworkError as error:
        return _known(reference, repository, source, error)
    folder = repository / snapshot.commit
    with _alone(repository, snapshot.commit, source, cache=cache, clock=clock):
        if not folder.is_dir():
            _download(source, snapshot, folder, progress, endpoint)
        _remember(reference, snapshot.commit)
    return folder


def fetch_dataset_file(
    source: HubSource,
    name: str,
    *,
    cache: Path,
    progress: Progress,
    clock: Clock | None = None,
    endpoint: str | None = None,
) -> Path:
    """One file of a data set's repository at the source's revision, on this machine.

    As with `fetch_hub`, a pinned commit whose file is there needs no network, and a branch or tag falls back to the
    commit it last named while the hub cannot be reached.

    Args:
        name: Path inside the repository, such as `data/test.jsonl`.
        clock: Limits the wait for another process that fetches from the same commit.
        endpoint: Address of the hub; `None` is the library's default, which `HF_ENDPOINT` can change.

    Raises:
        UsageError: the hub library is not installed.
        NetworkError: the hub cannot be reached, or failed.
        MeasurementError: no such repository, revision or file, no access, not a kind of file that holds items, or the
            download is not what the hub described.
        StorageFullError: the disk is full.
    Effects: downloads below `cache`.
    """
    if not name.endswith(_DATA_SUFFIXES):
        raise MeasurementError(
            f"{name!r} is not a known kind of items file",
            where=str(source),
            hint=f"Known: {', '.join(_DATA_SUFFIXES)}.",
        )
    check_relative(name)
    repository = cache / "datasets" / source.repository.replace("/", "--")
    if source.is_pinned and (repository / source.revision / name).is_file():
        return repository / source.revision / name
    reference = repository / "refs" / quote(source.revision, safe="")
    try:
        commit, file = _ask_for_data(source, name, endpoint)
    except NetworkError as error:
        return _known(reference, repository, source, error, name=name)
    path = repository / commit / name
    with _alone(repository, commit, source, cache=cache, clock=clock):
        if not path.is_file():
            _download_data(source, commit, file, path, progress=progress, endpoint=endpoint)
        _remember(reference, commit)
    return path


@contextmanager
def _alone(repository: Path, commit: str, source: HubSource, *, cache: Path, clock: Clock | None) -> Iterator[None]:
    """Holds the right to fetch this commit inside the block, and translates a full disk."""
    try:
        with (
            full_disk_as_storage_error(cache),
            wait_lock(
                repository / f"{commit}.lock",
                clock or SystemClock(),
                max_wait_s=_MAX_WAIT_S,
                on_wait=lambda: _LOGGER.info("waiting for another process that fetches %s", source),
            ),
        ):
            yield
    except LockTimeoutError as error:
        what = f"another process has been fetching {source} for more than {_MAX_WAIT_S / 3600:.0f} h"
        raise ArtifactError(what, where=str(repository), hint="Stop it, or wait for its end.") from error


def _remember(reference: Path, commit: str) -> None:
    reference.parent.mkdir(exist_ok=True)
    reference.write_text(commit, encoding="utf-8")


def _ask(source: HubSource, endpoint: str | None) -> _Snapshot:
    """The commit that the revision names, and its files that we want."""
    hub = _library()
    with _translated(hub, source, endpoint, _MODEL):
        info = hub.HfApi(endpoint=endpoint).model_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=_INFO_TIMEOUT_S
        )
    files = []
    for sibling in info.siblings or ():
        path = str(sibling.rfilename)
        check_relative(path)
        if is_content(PurePosixPath(path).name) and not _is_hidden(path):
            files.append(_remote_file(sibling))
    if not files:
        raise CheckpointError(
            "the repository holds no safetensors, OpenVINO or configuration files",
            where=str(source),
            hint="Pickled weights are not fetched; use a revision with safetensors.",
        )
    return _Snapshot(str(info.sha), tuple(files))


def _ask_for_data(source: HubSource, name: str, endpoint: str | None) -> tuple[str, _RemoteFile]:
    """The commit that the revision names, and its file of this name."""
    hub = _library()
    with _translated(hub, source, endpoint, _DATASET):
        info = hub.HfApi(endpoint=endpoint).dataset_info(
            source.repository, revision=source.revision, files_metadata=True, timeout=_INFO_TIMEOUT_S
        )
    files = {str(sibling.rfilename): sibling for sibling in info.siblings or ()}
    if name not in files:
        data = sorted(path for path in files if path.endswith(_DATA_SUFFIXES))
        near = get_close_matches(name, data, n=3, cutoff=0.3) or data[:3]
        hint = f"It has {', '.join(near)}." if near else "It has no file that holds items."
        raise MeasurementError(f"the repository has no file {name!r}", where=str(source), hint=hint)
    return str(info.sha), _remote_file(files[name])


def _remote_file(sibling: Any) -> _RemoteFile:
    lfs = sibling.lfs
    return _RemoteFile(str(sibling.rfilename), int(sibling.size or 0), None if lfs is None else str(lfs.sha256))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") for part in PurePosixPath(path).parts)


def _download(source: HubSource, snapshot: _Snapshot, folder: Path, progress: Progress, endpoint: str | None) -> None:
    """Fetches the snapshot's files, checks them and renames the folder to its place."""
    hub = _library()
    partial = folder.with_name(f"{folder.name}.partial")
    total_bytes = sum(file.num_bytes for file in snapshot.files)
    check_free(partial, total_bytes - _bytes_there(partial, snapshot))
    with progress.task(f"fetching {source}") as task, _translated(hub, source, endpoint, _MODEL):
        hub.snapshot_download(
            source.repository,
            revision=snapshot.commit,
            local_dir=partial,
            allow_patterns=[_literal_pattern(file.path) for file in snapshot.files],
            endpoint=endpoint,
            etag_timeout=_INFO_TIMEOUT_S,
            tqdm_class=_bar_class(task, total_bytes),
        )
        task.advance(done=float(total_bytes), total=float(total_bytes))
    for file in snapshot.files:
        _check(partial / file.path, file, source, _MODEL)
    shutil.rmtree(partial / ".cache", ignore_errors=True)  # the library's notes for continuing
    partial.rename(folder)


def _download_data(
    source: HubSource, commit: str, file: _RemoteFile, path: Path, *, progress: Progress, endpoint: str | None
) -> None:
    """Fetches one file, checks it and renames it to its place."""
    hub = _library()
    partial = path.parents[len(PurePosixPath(file.path).parts) - 1].with_name(f"{commit}.partial")
    check_free(partial, file.num_bytes)
    title = f"fetching {file.path} of {source}"
    with progress.task(title) as task, _translated(hub, source, endpoint, _DATASET):
        hub.hf_hub_download(
            source.repository,
            file.path,
            repo_type="dataset",
            revision=commit,
            local_dir=partial,
            endpoint=endpoint,
            etag_timeout=_INFO_TIMEOUT_S,
            tqdm_class=_bar_class(task, file.num_bytes),
        )
        task.advance(done=float(file.num_bytes), total=float(file.num_bytes))
    _check(partial / file.path, file, source, _DATASET)
    path.parent.mkdir(parents=True, exist_ok=True)
    (partial / file.path).replace(path)
    shutil.rmtree(partial, ignore_errors=True)


def _bytes_there(partial: Path, snapshot: _Snapshot) -> int:
    return sum(file.num_bytes for file in snapshot.files if (partial / file.path).is_file())


def _literal_pattern(path: str) -> str:
    """A pattern for `fnmatch` that matches this path only."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def _check(path: Path, file: _RemoteFile, source: HubSource, kind: _Kind) -> None:
    num_bytes = path.stat().st_size if path.is_file() else 0
    if num_bytes != file.num_bytes:
        what = f"{file.path} has {num_bytes} bytes, the hub says {file.num_bytes}"
    elif file.sha256 is not None and file_sha256(path) != file.sha256:
        what = f"the content of {file.path} is not what the hub describes"
    else:
        return
    path.unlink(missing_ok=True)
    raise kind.refusal(what, where=str(source), hint="Run the command again; the file is fetched anew.")


def _known(reference: Path, repository: Path, source: HubSource, error: NetworkError, *, name: str = "") -> Path:
    """The folder of the commit that the revision last named, or the file of this name in it, when it is there.

    Raises: NetworkError: `error`, when there is none.
    """
    try:
        commit = reference.read_text("utf-8")
    except FileNotFoundError:
        raise error from None
    path = repository / commit / name
    if not path.exists():
        raise error
    _LOGGER.warning("%s; using commit %s, which %s named when it was last fetched", error.what, commit[:12], source)
    return path


def _library() -> Any:
    try:
        for module in ("errors", "constants"):  # the package does not load these by itself
            import_module(f"huggingface_hub.{module}")
        return import_module("huggingface_hub")
    except ImportError as error:
        raise UsageError(
            "checkpoints and data sets from a hub need the package huggingface-hub",
            hint="Install it with `pip install 'lightship[hub]'`, or use a folder or file on this machine.",
        ) from error


@contextmanager
def _translated(hub: Any, source: HubSource, endpoint: str | None, kind: _Kind) -> Iterator[None]:
    """Turns the hub library's exceptions into ours; the order matters, since its classes nest."""
    errors = hub.errors
    address = endpoint or str(hub.constants.ENDPOINT)
    try:
        yield
    except errors.GatedRepoError as error:
        page = f"{address}/{kind.address_prefix}{source.repository}"
        hint = f"Accept its conditions at {page}, then set HF_TOKEN to your token."
        raise kind.refusal("the repository is gated", where=str(source), hint=hint) from error
    except errors.RepositoryNotFoundError as error:
        hint = "Check the spelling; a private repository needs HF_TOKEN."
        raise kind.refusal(f"there is no such repository at {address}", where=str(source), hint=hint) from error
    except errors.RevisionNotFoundError as error:
        what = f"the repository has no revision {source.revision!r}"
        raise kind.refusal(what, where=str(source), hint="Name a branch, a tag or a commit that exists.") from error
    except errors.HFValidationError as error:
        raise kind.refusal(f"not a repository of a hub: {error}", where=str(source)) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise _unreachable(address, source, kind, error) from error
    except Exception as error:
        # The library lets its HTTP client's errors through, and which client that is depends on its version.
        if type(error).__module__.partition(".")[0] not in {"httpx", "httpx2", "httpcore", "requests"}:
            raise
        raise _unreachable(address, source, kind, error) from error


def _unreachable(address: str, source: HubSource, kind: _Kind, error: Exception) -> NetworkError:
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    hint = f"Check the network, or {kind.way_round}."
    return NetworkError(f"the hub at {address} cannot be reached: {reason}", where=str(source), hint=hint)


def _bar_class(task: Task, total_bytes: int) -> type:
    """A class in the shape of `tqdm` that draws nothing and tells `task` of the bytes that arrived."""
    bar_class: type[Any] = import_module("tqdm.auto").tqdm

    def start(bar: Any, *args: Any, **options: Any) -> None:
        options.pop("name", None)
        bar_class.__init__(bar, *args, **{**options, "disable": True})
        bar.counts_bytes = options.get("unit") == "B"

    def update(bar: Any, n: float | None = 1) -> None:
        bar.n += n or 0
        # Several bars may count the same bytes, on the wire and on the disk; the largest count is the furthest.
        if bar.counts_bytes:
            task.advance(done=float(min(bar.n, total_bytes)), total=float(total_bytes))

    methods: dict[str, Callable[..., None]] = {"__init__": start, "update": update}
    return type("TaskBar", (bar_class,), methods)
