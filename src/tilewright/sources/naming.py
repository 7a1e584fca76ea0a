"""Each source of a run has an output name of its own."""

import os
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import DestinationError

ARRAY_SOURCE_NAME = "prediction"
_STORES = (".zarr", ".n5", ".h5:", ".hdf5:")
"""Endings of what holds several arrays, which have paths inside it."""


def source_stem(path: Path) -> str:
    """Return the name of a source without its extension; inner dots stay.

    Examples
    --------
    >>> source_stem(Path("a.b.tif")), source_stem(Path("raw.zarr/0")), source_stem(Path("raw.zarr/left/em"))
    ('a.b', 'raw', 'raw_left_em')
    >>> source_stem(Path("raw.h5:/left/em")), source_stem(Path("raw.n5/left/em"))
    ('raw_left_em', 'raw_left_em')
    """
    parts = path.parts
    stores = [index for index, part in enumerate(parts) if part.lower().endswith(_STORES)]
    if not stores:
        return path.stem
    store, *inside = parts[stores[-1] :]
    return "_".join([Path(store).stem, *(inside if inside != ["0"] else [])])


def create_write_file_path(dirpath: Path | str, file_path: Path | str, write_extension: str) -> Path:
    """Return the path of the prediction of a file.

    Parameters
    ----------
    dirpath : Path or str
        Folder of the output.
    file_path : Path or str
        The predicted file.
    write_extension : str
        Extension of the output, with its dot.

    Raises
    ------
    ValueError
        If the extension does not start with a dot.

    Examples
    --------
    >>> create_write_file_path("out", "raw/a.b.tif", ".tiff").as_posix()
    'out/a.b.tiff'
    """
    check_extension(write_extension)
    return Path(dirpath) / f"{source_stem(Path(file_path))}{write_extension}"


def check_extension(write_extension: str) -> None:
    """Raise ValueError if this is no file extension."""
    is_ending = isinstance(write_extension, str) and write_extension.startswith(".") and len(write_extension) > 1
    if not is_ending or Path(write_extension).name != write_extension:
        raise ValueError(f"write_extension must be the ending of a file with its dot, got {write_extension!r}")


def output_names(paths: Sequence[Path | None], extension: str) -> list[Path]:
    """Return the paths of the predictions of a run, relative to the output folder.

    Parameters
    ----------
    paths : sequence of Path or None
        Path of each source; None for an array. The output keeps the folders below the common parent of the sources.
    extension : str
        Extension of the outputs. Arrays share one Zarr store; other outputs have one file per array.

    Two sources that would share an output are a DestinationError, which names both.

    Examples
    --------
    >>> paths = [Path("/data/a/raw.tif"), Path("/data/b/raw.tif"), None]
    >>> [name.as_posix() for name in output_names(paths, ".zarr")]
    ['a/raw.zarr', 'b/raw.zarr', 'prediction.zarr/2']
    >>> [name.as_posix() for name in output_names(paths, ".tiff")]
    ['a/raw.tiff', 'b/raw.tiff', 'prediction_2.tiff']
    """
    # Two names of one file are made equal: "a/../b" is "b".
    paths = [None if path is None else Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    folders = {path: _folder_of(path) for path in paths if path is not None}
    common = Path(os.path.commonpath(folders.values())) if folders else Path()
    shared_store = Path(f"{ARRAY_SOURCE_NAME}.zarr")
    names: list[Path] = []
    first_of: dict[Path, int] = {}
    described = [str(path or f"array {index}") for index, path in enumerate(paths)]
    for index, path in enumerate(paths):
        if path is not None:
            name = create_write_file_path(folders[path].relative_to(common), path, extension)
        elif extension == ".zarr":
            name = shared_store / str(index)
        else:
            name = Path(f"{ARRAY_SOURCE_NAME}_{index}{extension}")
        names.append(name)
        first = first_of.setdefault(name, index)
        if first != index and paths[first] == path:
            raise DestinationError(f"the source {path} is given twice, as number {first} and {index}")
        if first != index:
            raise DestinationError(
                f"the sources {described[first]} and {described[index]} would both be written to {name}; rename one "
                "of them"
            )
    if extension == ".zarr" and None in paths and shared_store in first_of:
        raise DestinationError(
            f"the source {described[first_of[shared_store]]} and an array would share {shared_store}; rename the file"
        )
    return names


def zarr_output_names(paths: Sequence[Path | None]) -> list[tuple[Path, str]]:
    """Return the Zarr store, and the group in it, of each prediction of a run.

    Examples
    --------
    >>> [(store.as_posix(), group) for store, group in zarr_output_names([Path("/data/raw.tif"), None])]
    [('raw.zarr', ''), ('prediction.zarr', '1')]
    """
    names = output_names(paths, ".zarr")
    return [(name, "") if path else (name.parent, name.name) for path, name in zip(paths, names, strict=True)]


def _folder_of(path: Path) -> Path:
    """Return the folder of a file, or of the outermost store around an array."""
    inside = [parent for parent in path.parents if parent.name.lower().endswith(_STORES)]
    return (inside[-1] if inside else path).parent
