"""Two names of one stored thing are known as one, and no name of a store holds a secret."""

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import obstore.store as obstore
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from tests.support import CountingStore, ForeignStore
from zarr.storage import (
    FsspecStore,
    LocalStore,
    LoggingStore,
    MemoryStore,
    ObjectStore,
    StorePath,
    WrapperStore,
    ZipStore,
)

from tilewright.errors import SourceError
from tilewright.sources.opening import open_source
from tilewright.stores.places import (
    Place,
    folder_of,
    gives_other_names,
    place_of_path,
    place_of_store,
    place_of_url,
    public_name,
    without_secrets,
)


def in_a_folder_of_fsspec(folder: Path) -> Any:
    from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    part = DirFileSystem(path=str(folder.parent), fs=LocalFileSystem())
    return FsspecStore(AsyncFileSystemWrapper(part, asynchronous=True), path=folder.name)


def registered_by_obstore(folder: Path) -> Any:
    from obstore.fsspec import FsspecStore as FileSystem

    return FsspecStore(FileSystem("file", asynchronous=True), path=str(folder))


NAMES_OF_A_FOLDER: dict[str, Callable[[Path], Any]] = {
    "local": LocalStore,
    "with dots": lambda folder: LocalStore(folder / "x" / ".." / "." / "0" / ".."),
    "path in a store": lambda folder: StorePath(LocalStore(folder.parent), folder.name),
    "wrapper": lambda folder: WrapperStore(LocalStore(folder)),
    "wrapper of a wrapper": lambda folder: LoggingStore(WrapperStore(LocalStore(folder))),
    "fsspec": lambda folder: FsspecStore.from_url(f"file://{folder}"),
    "fsspec by another scheme": lambda folder: FsspecStore.from_url(f"local://{folder}"),
    "fsspec with a cache": lambda folder: FsspecStore.from_url(f"simplecache::file://{folder}"),
    "folder of fsspec": in_a_folder_of_fsspec,
    "mapper of fsspec": lambda folder: FsspecStore.from_mapper(fsspec.get_mapper(f"file://{folder}")),
    "obstore": lambda folder: ObjectStore(obstore.LocalStore(folder)),
    "file system of obstore": registered_by_obstore,
}


@pytest.mark.parametrize("open_store", NAMES_OF_A_FOLDER.values(), ids=NAMES_OF_A_FOLDER)
def test_a_local_folder_is_one_place_whatever_store_names_it(open_store: Callable[[Path], Any], tmp_path: Path) -> None:
    folder = tmp_path / "data" / "raw.zarr"
    folder.mkdir(parents=True)
    (tmp_path / "link").symlink_to("data")
    for named in (folder, tmp_path / "link" / "raw.zarr"):
        store = open_store(named)
        assert place_of_store(store) == place_of_path(folder)
        assert place_of_store(store, "0/c") == place_of_path(named / "0" / "c")
        if not isinstance(store, StorePath):
            assert folder_of(store) == folder


def test_links_and_other_names_of_a_folder_are_seen_through(tmp_path: Path) -> None:
    raw, link = tmp_path / "raw.zarr", tmp_path / "link"
    (raw / "0").mkdir(parents=True)
    link.symlink_to(raw)
    for named in (link / "0", link / ".." / "raw.zarr" / "0"):
        assert place_of_path(named) == place_of_path(raw / "0") == Place("file", (*place_of_path(raw).path, "0"))
    file = tmp_path / "a.tif"
    file.touch()
    os.link(file, tmp_path / "b.tif")
    assert place_of_path(file).overlaps(place_of_path(tmp_path / "b.tif"))
    assert not place_of_path(file).overlaps(place_of_path(tmp_path / "c.tif"))


PARTS = st.lists(st.sampled_from("ab"), max_size=3).map(tuple)


@given(st.sampled_from(["s3", "file"]), PARTS, PARTS)
def test_places_overlap_where_one_lies_inside_the_other(service: str, first: Any, second: Any) -> None:
    root = ("/", "not-there") if service == "file" else ("bucket",)
    one, other = Place(service, root + first), Place(service, root + second)
    shorter = min(len(first), len(second))
    assert one.overlaps(other) == other.overlaps(one) == (first[:shorter] == second[:shorter])
    assert not one.overlaps(Place("gs", second))


def of_fsspec(protocol: str, path: str) -> Any:
    """A store of a file system whose library is not installed here: what is looked at is its protocol."""
    from fsspec.asyn import AsyncFileSystem

    return FsspecStore(type("FileSystem", (AsyncFileSystem,), {"protocol": protocol})(asynchronous=True), path=path)


NAMES_OF_A_BUCKET: dict[Place, Callable[[], list[Any]]] = {
    Place("s3", ("bucket", "a", "b.zarr")): lambda: [
        of_fsspec(("s3", "s3a"), "bucket/a/b.zarr"),
        ObjectStore(obstore.S3Store("bucket", prefix="a/b.zarr", access_key_id="k", secret_access_key="hush")),
        ObjectStore(obstore.from_url("https://bucket.s3.eu-west-1.amazonaws.com/a/b.zarr")),
        ObjectStore(obstore.HTTPStore.from_url("https://s3.eu-west-1.amazonaws.com/bucket/a/b.zarr")),
    ],
    Place("gs", ("bucket", "a")): lambda: [
        of_fsspec(("gs", "gcs"), "bucket/a"),
        ObjectStore(obstore.GCSStore("bucket", prefix="a")),
        of_fsspec("http", "https://storage.googleapis.com/bucket/a"),
    ],
    Place("az", ("box", "a")): lambda: [
        of_fsspec(("abfs", "az"), "box/a"),
        ObjectStore(obstore.AzureStore("box", prefix="a", account_name="account")),
        ObjectStore(obstore.HTTPStore.from_url("https://account.blob.core.windows.net/box/a?sig=hush")),
    ],
    Place("http", ("host", "a")): lambda: [
        of_fsspec(("http", "https"), "https://me:hush@host/a?sig=hush"),
        ObjectStore(obstore.HTTPStore.from_url("https://me:hush@host/a?sig=hush")),
    ],
    Place("fsspec memory", ("a", "b")): lambda: [
        FsspecStore.from_url("memory://a/b"),
        FsspecStore.from_url("memory:///a/b/"),
    ],
}


@pytest.mark.parametrize("expected", NAMES_OF_A_BUCKET, ids=lambda place: place.service)
def test_a_prefix_of_a_bucket_is_one_place_whatever_store_names_it(expected: Place) -> None:
    for store in NAMES_OF_A_BUCKET[expected]():
        assert place_of_store(store) == expected
        assert place_of_store(store, "0") == Place(expected.service, (*expected.path, "0"))
        assert "hush" not in f"{place_of_store(store)} {public_name(store)} {public_name(store, '0/c')}"


def test_stores_on_one_dict_are_one_place() -> None:
    shared: dict[str, Any] = {}
    one, other = MemoryStore(shared), MemoryStore(shared, read_only=True)
    assert place_of_store(one, "a") == place_of_store(CountingStore(other), "a")
    assert place_of_store(one) != place_of_store(MemoryStore())
    inner = obstore.MemoryStore()
    assert place_of_store(ObjectStore(inner)) == place_of_store(ObjectStore(inner, read_only=True))
    assert place_of_store(ObjectStore(inner)) != place_of_store(ObjectStore(obstore.MemoryStore()))


def test_an_archive_is_its_file(tmp_path: Path) -> None:
    path = tmp_path / "raw.zip"
    # An open of it to write it anew loses all of it.
    assert place_of_store(ZipStore(path, mode="w")) == place_of_path(path)
    with closing(ZipStore(path, mode="w")) as store:
        zarr.create_array(store, name="raw", shape=(2,), dtype="u1")
        assert place_of_store(store, "raw") == place_of_path(path)
    store = ZipStore(path)
    inside = place_of_store(store, "raw")
    assert inside is not None
    assert place_of_path(path).overlaps(inside)
    assert folder_of(store) is None


class Renaming(WrapperStore[Any]):
    """A wrapper of another library, which may do anything with keys."""


def test_a_foreign_wrapper_may_give_other_names() -> None:
    assert gives_other_names(Renaming(MemoryStore()))
    assert gives_other_names(LoggingStore(Renaming(MemoryStore())))
    assert not gives_other_names(LoggingStore(WrapperStore(MemoryStore())))
    assert not gives_other_names(MemoryStore())


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://me:secret@example.com:81/a.zarr?signature=secret#secret", "https://example.com:81/a.zarr"),
        ("raw.zarr", "raw.zarr"),
        ("s3://key:secret@bucket/a.zarr?X-Amz-Signature=secret", "s3://bucket/a.zarr"),
        ("s3://key:se/cret@bucket/a", "s3://bucket/a"),
        ("https://secret@host:8000/a@b#secret", "https://host:8000/a@b"),
        ("https://host:8000/a@b", "https://host:8000/a@b"),
        ("simplecache::https://me:secret@host/a", "simplecache::https://host/a"),
        ("abfss://box@account.dfs.core.windows.net/a?sig=secret", "abfss://box@account.dfs.core.windows.net/a"),
        # As a path of Python has it.
        (Path("https://me:secret@host/a"), "https:/host/a"),
        ("/data/a?b@c.zarr", "/data/a?b@c.zarr"),
    ],
)
def test_a_name_holds_no_secret(url: Any, expected: str) -> None:
    assert public_name(url) == expected
    assert public_name(url, "0/zarr.json") == f"{expected}/0/zarr.json"
    assert "secret" not in without_secrets(f"GET {url} failed")
    place = place_of_url(str(url))
    assert "secret" not in f"{place!r} {place}"


def test_a_url_of_a_file_is_its_path() -> None:
    here = place_of_path("raw.zarr")
    for url in ("file://raw.zarr", f"file://{Path.cwd()}/raw.zarr", f"file://localhost{Path.cwd()}/raw.zarr"):
        assert place_of_url(url) == here
    assert place_of_url("file://") is None


def test_a_store_of_which_nothing_is_known_has_a_name_and_no_place() -> None:
    assert place_of_store(ForeignStore(MemoryStore())) is None
    assert public_name(ForeignStore(MemoryStore()), "a/b") == "ForeignStore/a/b"


def test_the_name_of_a_store_in_memory_holds_no_address() -> None:
    assert public_name(MemoryStore(), "a/b") == public_name(MemoryStore(), "a/b") == "memory://a/b"


class Refusing(CountingStore):
    """A store of which the client names the URL that it has asked."""

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        if key.endswith("c/0/0"):
            raise OSError("403, url='https://me:secret@host/raw?signature=secret'")
        return await super().get(key, prototype, byte_range)


def test_what_a_client_says_of_its_url_comes_without_secrets() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=(8, 8), dtype="u1", chunks=(8, 8))[...] = 1
    source = open_source(zarr.open_array(Refusing(store), mode="r"), "YX")
    with pytest.raises(SourceError, match="url='https://host/raw'") as caught:
        source.read_window({})
    assert "secret" not in str(caught.value)
