"""Metadata documents of Zarr groups and arrays, refused where another Zarr reader would refuse them."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tilewright.stores.zarr_api import default_buffer_prototype

GROUP_NAMES = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
METADATA_NAMES = (*GROUP_NAMES, ".zarray")
_DOCUMENTS = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
"""Documents of a node: of format 3, of an array and a group of format 2, and the attributes of these."""

ReadObject = Callable[[str], bytes | None]
"""Returns the bytes of an object by its key, or None where there is none."""


class HasMetadata(Protocol):
    """An array of Zarr, or several that have equal metadata."""

    @property
    def metadata(self) -> Any:
        """The metadata as zarr holds them."""


class MetadataError(ValueError):
    """A document that has the name of metadata, but not its content."""


@dataclass(frozen=True)
class Node:
    """Zarr group or array: its metadata document, and apart from it the user attributes."""

    is_array: bool
    zarr_format: int
    document: dict[str, Any]
    attributes: dict[str, Any]

    @property
    def chunk_pattern(self) -> re.Pattern[str]:
        """Pattern of the keys of its stored objects, relative to the array; matches nothing for a group."""
        if not self.is_array:
            return re.compile(r"(?!)")
        ndim = len(self.document["shape"])
        encoding: dict[str, Any] = {"name": "v2", "configuration": {}}
        if self.zarr_format == 3:
            encoding = self.document["chunk_key_encoding"]
        is_default = encoding["name"] == "default"
        default_separator = "/" if is_default else self.document.get("dimension_separator") or "."
        separator = re.escape(encoding.get("configuration", {}).get("separator", default_separator))
        if is_default:
            return re.compile(rf"c({separator}\d+){{{ndim}}}")
        return re.compile(rf"\d+({separator}\d+){{{max(0, ndim - 1)}}}")


def read_node(read: ReadObject, path: str = "") -> Node | None:
    """Return the group or array at a path, or None where there is none; raise MetadataError for a damaged document.

    The path of the root is empty.
    """
    format_3, array, group, attributes = (f"{path}/{name}" if path else name for name in _DOCUMENTS)
    document = _document(read, format_3)
    if document is not None:
        return _node_of_format_3(document, format_3)
    for key in (array, group):
        document = _document(read, key)
        if document is not None:
            return _node_of_format_2(document, _document(read, attributes) or {}, key)
    return None


def array_node(document: Mapping[str, Any]) -> Node | None:
    """Return the array of a document that was recorded elsewhere; None where it describes no array."""
    name, format_3 = "recorded metadata", document.get("zarr_format") == 3
    try:
        return _node_of_format_3(dict(document), name) if format_3 else _node_of_format_2(dict(document), {}, name)
    except MetadataError:
        return None


def array_metadata(array: HasMetadata) -> dict[str, Any]:
    """Return the stored metadata of an array without its attributes, which any program may change."""
    documents = array.metadata.to_buffer_dict(default_buffer_prototype())
    document = documents["zarr.json" if array.metadata.zarr_format == 3 else ".zarray"]
    metadata: dict[str, Any] = json.loads(document.to_bytes())
    metadata.pop("attributes", None)
    return metadata


def is_zarr(folder: Path) -> bool:
    """Tell whether a folder is a Zarr group or array."""
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup", ".zarray"))


def _document(read: ReadObject, key: str) -> dict[str, Any] | None:
    raw = read(key)
    if raw is None:
        return None
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise MetadataError(f"{key} is no JSON: {str(error)[:80] or type(error).__name__}") from None
    if not isinstance(document, dict):
        raise MetadataError(f"{key} is no JSON object, but {type(document).__name__}")
    return document


def _node_of_format_3(document: dict[str, Any], key: str) -> Node:
    attributes = document.pop("attributes", {})
    kind = document.get("node_type")
    _require(document.get("zarr_format") == 3, key, "zarr_format", 3, document.get("zarr_format"))
    _require(kind in ("array", "group"), key, "node_type", "'array' or 'group'", kind)
    _require(isinstance(attributes, dict), key, "attributes", "an object", attributes)
    if kind == "array":
        _check_shape(document, key)
        for name in ("chunk_grid", "chunk_key_encoding"):
            value = document.get(name)
            entry = value if isinstance(value, dict) else {}
            is_named = isinstance(entry.get("name"), str) and isinstance(entry.get("configuration", {}), dict)
            _require(is_named, key, name, "an object with a name", value)
        encoding = document["chunk_key_encoding"]
        _require(encoding["name"] in ("default", "v2"), key, "chunk_key_encoding", "default or v2", encoding["name"])
        _check_separator(encoding.get("configuration", {}).get("separator"), key)
        _require(isinstance(document.get("codecs"), list), key, "codecs", "a list", document.get("codecs"))
        for name in ("data_type", "fill_value"):
            _require(name in document, key, name, "a value", None)
    return Node(kind == "array", 3, document, attributes)


def _node_of_format_2(document: dict[str, Any], attributes: dict[str, Any], key: str) -> Node:
    _require(document.get("zarr_format") == 2, key, "zarr_format", 2, document.get("zarr_format"))
    is_array = not key.endswith(".zgroup")
    if is_array:
        _check_shape(document, key)
        _check_separator(document.get("dimension_separator"), key)
        for name in ("chunks", "dtype", "fill_value"):
            _require(name in document, key, name, "a value", None)
    return Node(is_array, 2, document, attributes)


def _check_shape(document: Mapping[str, Any], key: str) -> None:
    shape = document.get("shape")
    is_shape = isinstance(shape, list) and all(type(extent) is int and extent >= 0 for extent in shape)
    _require(is_shape, key, "shape", "a list of whole numbers", shape)


def _check_separator(separator: Any, key: str) -> None:
    _require(separator in (None, "/", "."), key, "separator", "'/' or '.'", separator)


def _require(condition: bool, key: str, name: str, wanted: object, found: object) -> None:
    if not condition:
        raise MetadataError(f"{name} in {key} must be {wanted}, but it is {found!r:.60}")
