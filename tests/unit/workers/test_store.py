import hashlib
import json
import os

import pytest

from contracts.protocol.manifest import FILENAME, FileEntry
from tests.support import worker as support
from workers.errors import ModelHashMismatch, ModelUnusable, PackageUnavailable, UnsafePackage
from workers.models.sessions import SessionCache
from workers.models.store import PackageStore


@pytest.fixture
def store(tmp_path):
    return PackageStore(tmp_path / "cache", allow_file_uri=True, max_package_bytes=1 << 20)


@pytest.fixture
def source(tmp_path):
    return tmp_path / "source"


def test_a_package_is_fetched_once_and_served_from_the_cache(store, source):
    manifest = support.write_package(source)
    first = store.get(manifest.model_id, source.as_uri())
    (source / "model.onnx").unlink()
    again = store.get(manifest.model_id, source.as_uri())
    assert first == again
    assert hashlib.sha256(again.read("model.onnx")).digest() == manifest.files["model.onnx"].sha256


def test_a_look_says_what_fetching_would_say_and_fetches_nothing(store, source, tmp_path):
    manifest = support.write_package(source)
    assert store.look(manifest.model_id, source.as_uri()) == manifest
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ModelHashMismatch):
        store.look(b"\x01" * 32, source.as_uri())
    with pytest.raises(PackageUnavailable):
        store.look(manifest.model_id, (tmp_path / "nowhere").as_uri())
    strict = PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20)
    with pytest.raises(PackageUnavailable, match="file"):
        strict.look(manifest.model_id, source.as_uri())
    store.get(manifest.model_id, source.as_uri())
    assert strict.look(manifest.model_id, source.as_uri()) == manifest, "it lies in the cache"


def test_a_file_that_is_not_the_manifests_is_refused(store, source, tmp_path):
    manifest = support.write_package(source)
    data = bytearray((source / "model.onnx").read_bytes())
    data[-1] ^= 1
    (source / "model.onnx").write_bytes(bytes(data))
    with pytest.raises(ModelHashMismatch, match=r"model\.onnx"):
        store.get(manifest.model_id, source.as_uri())
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("change", [b"", b"more"])
def test_a_file_of_another_length_is_refused(store, source, change):
    manifest = support.write_package(source)
    data = (source / "model.onnx").read_bytes()
    (source / "model.onnx").write_bytes(data + change if change else data[:-1])
    with pytest.raises(ModelHashMismatch):
        store.get(manifest.model_id, source.as_uri())


def test_a_manifest_that_is_not_the_chains_is_refused(store, source):
    support.write_package(source)
    with pytest.raises(ModelHashMismatch, match="the chain names"):
        store.get(b"\1" * 32, source.as_uri())


def test_links_are_not_followed(store, source, tmp_path):
    manifest = support.write_package(source)
    secret = tmp_path / "secret"
    os.replace(source / "model.onnx", secret)
    (source / "model.onnx").symlink_to(secret)
    with pytest.raises(UnsafePackage, match="link"):
        store.get(manifest.model_id, source.as_uri())


def test_a_path_out_of_the_package_is_refused(store, source):
    manifest = support.write_package(source)
    raw = json.loads(manifest.to_bytes())
    raw["files"]["../../etc/passwd"] = {"sha256": "00" * 32, "size": 1}
    data = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    (source / FILENAME).write_bytes(data)
    with pytest.raises(UnsafePackage, match="relative path"):
        store.get(hashlib.sha256(data).digest(), source.as_uri())


def test_more_bytes_than_allowed_are_refused_before_they_are_fetched(store, source):
    manifest = support.write_package(source, files={"model.onnx": FileEntry(b"\1" * 32, 1 << 40)})
    with pytest.raises(UnsafePackage, match="allowed"):
        store.get(manifest.model_id, source.as_uri())


def test_addresses_must_be_of_a_kind_that_is_allowed(tmp_path, source):
    manifest = support.write_package(source)
    strict = PackageStore(tmp_path / "cache", allow_file_uri=False, max_package_bytes=1 << 20)
    for uri in (source.as_uri(), "ftp://host/x", "model", ""):
        with pytest.raises(PackageUnavailable, match="not taken from"):
            strict.get(manifest.model_id, uri)


def test_a_missing_package_is_said(store, source):
    with pytest.raises(PackageUnavailable, match="cannot read"):
        store.get(b"\1" * 32, source.as_uri())


def test_a_cached_file_that_was_changed_is_not_loaded(store, source):
    manifest = support.write_package(source)
    package = store.get(manifest.model_id, source.as_uri())
    data = bytearray((package.folder / "model.onnx").read_bytes())
    data[-1] ^= 1
    (package.folder / "model.onnx").write_bytes(bytes(data))
    with pytest.raises(ModelHashMismatch, match="changed on this machine"):
        package.read("model.onnx")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inputs": (support.TensorSpec("z", "FP32", (-1, 4)),)}, "takes"),
        ({"inputs": (support.TensorSpec("x", "FP64", (-1, 4)),)}, "FP64"),
        ({"inputs": (support.TensorSpec("x", "FP32", (-1, 5)),)}, "-1, 5"),
        ({"outputs": (support.TensorSpec("q", "FP32", (-1, 3)),)}, "no q"),
    ],
)
def test_a_model_that_contradicts_its_manifest_is_not_served(store, source, changes, words):
    manifest = support.write_package(source, **changes)
    package = store.get(manifest.model_id, source.as_uri())
    with pytest.raises(ModelUnusable, match=words):
        SessionCache(provider="cpu", threads=1, memory_budget_bytes=1).get(package)


def test_a_file_that_is_no_model_is_not_served(store, source):
    junk = b"not onnx"
    files = {"model.onnx": FileEntry(hashlib.sha256(junk).digest(), len(junk))}
    manifest = support.write_package(source, files=files)
    (source / "model.onnx").write_bytes(junk)
    package = store.get(manifest.model_id, source.as_uri())
    with pytest.raises(ModelUnusable):
        SessionCache(provider="cpu", threads=1, memory_budget_bytes=1).get(package)


def test_the_oldest_model_leaves_when_memory_is_short(store, tmp_path):
    packages = []
    for i in range(3):
        folder = tmp_path / f"source{i}"
        packages.append(store.get(support.write_package(folder, license=str(i)).model_id, folder.as_uri()))
    cache = SessionCache(provider="cpu", threads=1, memory_budget_bytes=5 * packages[0].size)
    for package in packages:
        cache.get(package)
    assert cache.loaded() == 2
    assert cache.get(packages[0]).manifest == packages[0].manifest
