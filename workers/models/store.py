"""Fetches model packages and holds every byte against the model id on chain.

A package is served only if its manifest hashes to the id and each file to the manifest. Checked packages lie in a
folder named by the id; a folder that is half written is never used. Nothing outside the package is read, no link is
followed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from contracts.protocol.errors import ManifestError
from contracts.protocol.hashing import sha256
from contracts.protocol.manifest import FILENAME, MAX_MANIFEST_BYTES, FileEntry, Manifest
from workers.errors import ModelHashMismatch, PackageUnavailable, UnsafePackage
from workers.models.over_http import HttpSource, HttpStream

_CHUNK = 1 << 20
_FETCHING = "fetching-"
# Whoever fetches writes every minute, or gives up: what nothing was written to for so long, nobody fetches any more.
_LEFT_SECONDS = 3_600.0


@dataclass(frozen=True, slots=True)
class Package:
    """A checked package on disk."""

    model_id: bytes
    manifest: Manifest
    folder: Path

    def read(self, name: str) -> bytes:
        """Return the content of one of the manifest's files, checked again as it is read.

        Raises:
            ModelHashMismatch: the file on disk has changed.
        """
        data = (self.folder / name).read_bytes()
        if sha256(data) != self.manifest.files[name].sha256:
            raise _changed(name)
        return data

    def verify(self, name: str) -> None:
        """Check one of the manifest's files on disk without holding it in memory.

        Raises:
            ModelHashMismatch: the file on disk has changed.
        """
        if hash_file(self.folder / name).sha256 != self.manifest.files[name].sha256:
            raise _changed(name)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(entry.size for entry in self.manifest.files.values())


def hash_file(path: Path) -> FileEntry:
    """Return a file's hash and size without holding it in memory."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").digest()
        return FileEntry(digest, stream.tell())


def _changed(name: str) -> ModelHashMismatch:
    return ModelHashMismatch(f"{name} was changed on this machine.", field=name, remedy="Delete the cache folder.")


class PackageStore:
    """The cache of packages under one folder."""

    def __init__(
        self, root: Path, *, allow_file_uri: bool, max_package_bytes: int, allow_private_hosts: bool = False
    ) -> None:
        self._root = root.expanduser()
        self._allow_file_uri = allow_file_uri
        self._allow_private_hosts = allow_private_hosts
        self._max_bytes = max_package_bytes

    def get(self, model_id: bytes, uri: str) -> Package:
        """Return a package from the cache, or fetch it.

        Raises:
            PackageUnavailable: it is not at its address, or the address is of a kind not allowed.
            ModelHashMismatch: something there is not what the chain names.
            UnsafePackage: links, or more bytes than allowed.
        """
        folder = self._root / model_id.hex()
        if (folder / FILENAME).is_file():
            manifest = self._manifest(model_id, _read_small(folder / FILENAME))
            for name, entry in manifest.files.items():
                path = folder / name
                if not path.is_file() or path.stat().st_size != entry.size:
                    break
            else:
                return Package(model_id, manifest, folder)
            shutil.rmtree(folder)
        return self._fetch(model_id, uri, folder)

    def look(self, model_id: bytes, uri: str) -> Manifest:
        """Return what a package's manifest says, from the cache or its address, without fetching its files.

        Raises:
            PackageUnavailable, ModelHashMismatch, UnsafePackage: as `get`.
        """
        cached = self._root / model_id.hex() / FILENAME
        if cached.is_file():
            return self._manifest(model_id, _read_small(cached))
        with self._source(uri).open(FILENAME) as stream:
            return self._manifest(model_id, stream.read(MAX_MANIFEST_BYTES + 1))

    def _fetch(self, model_id: bytes, uri: str, folder: Path) -> Package:
        self._root.mkdir(parents=True, exist_ok=True)
        self._clear_left()
        with tempfile.TemporaryDirectory(dir=self._root, prefix=_FETCHING) as partial:
            target = Path(partial) / "package"
            target.mkdir()
            source = self._source(uri)
            with source.open(FILENAME) as stream:
                data = stream.read(MAX_MANIFEST_BYTES + 1)
            manifest = self._manifest(model_id, data)
            total = sum(entry.size for entry in manifest.files.values())
            if total > self._max_bytes:
                raise UnsafePackage(f"{total} bytes, {self._max_bytes} allowed.", field="WORKER_MAX_PACKAGE_BYTES")
            for name, entry in manifest.files.items():
                path = target / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with source.open(name) as stream, path.open("wb") as sink:
                    _copy_checked(stream, sink, name, entry.size, entry.sha256)
                    _to_disk(sink)
            with (target / FILENAME).open("wb") as sink:
                sink.write(data)
                _to_disk(sink)
            try:
                target.rename(folder)
            except OSError:
                if not (folder / FILENAME).is_file():  # another worker of this machine was first
                    raise
        return Package(model_id, manifest, folder)

    def _clear_left(self) -> None:
        """Remove what was being fetched when a worker was killed or the power failed: it may be many gigabytes."""
        for folder in self._root.glob(f"{_FETCHING}*"):
            newest = max(map(_written_at, (folder, *folder.rglob("*"))), default=0.0)
            if time.time() - newest > _LEFT_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)

    def _source(self, uri: str) -> _FolderSource | HttpSource:
        try:
            parts = urlsplit(uri)
        except ValueError as error:
            raise PackageUnavailable(f"{uri[:200]!r} is no address.", field="uri") from error
        if parts.scheme == "file" and self._allow_file_uri:
            return _FolderSource(Path(unquote(parts.path)))
        if parts.scheme in ("http", "https"):
            return HttpSource(uri, allow_private=self._allow_private_hosts)
        raise PackageUnavailable(
            f"packages are not taken from {parts.scheme or 'no scheme'}: addresses.",
            field="uri",
            remedy="Set WORKER_ALLOW_FILE_URI=true for file:// on one machine; else the owner must list https.",
        )

    @staticmethod
    def _manifest(model_id: bytes, data: bytes) -> Manifest:
        if sha256(data) != model_id:
            raise ModelHashMismatch(
                f"the manifest hashes to {sha256(data).hex()}, the chain names {model_id.hex()}.",
                field=FILENAME,
                remedy="The owner must publish the package that was listed.",
            )
        try:
            return Manifest.parse(data)
        except ManifestError as error:
            raise UnsafePackage(error.detail, field=error.field) from error


class _FolderSource:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        path = self._folder
        for part in name.split("/"):
            path /= part
            if path.is_symlink():
                raise UnsafePackage(f"{name} is a link.", field=name)
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError as error:
            raise PackageUnavailable(f"cannot read {path}: {error.strerror}.", field="uri") from error
        with os.fdopen(descriptor, "rb") as stream:
            yield stream


def _copy_checked(stream: BinaryIO | HttpStream, sink: BinaryIO, name: str, size: int, expected: bytes) -> None:
    digest, seen = hashlib.sha256(), 0
    while chunk := stream.read(min(_CHUNK, size - seen + 1)):
        seen += len(chunk)
        if seen > size:
            raise ModelHashMismatch(f"{name} is longer than the {size} bytes of its manifest.", field=name)
        digest.update(chunk)
        sink.write(chunk)
    if seen != size or digest.digest() != expected:
        raise ModelHashMismatch(
            f"{name} is not the file that the manifest names ({seen} bytes, SHA-256 {digest.hexdigest()}).",
            field=name,
            remedy="The owner must publish the package that was listed.",
        )


def _to_disk(sink: BinaryIO) -> None:
    """Have it on the disk before its folder has its name: after a power cut a file could be there without its bytes."""
    sink.flush()
    os.fsync(sink.fileno())


def _written_at(path: Path) -> float:
    try:
        return path.lstat().st_mtime
    except OSError:  # whoever fetches there is done
        return time.time()


def _read_small(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(MAX_MANIFEST_BYTES + 1)
