"""Each source has one output name, and no two sources of a run have the same."""

import os
from collections.abc import Sequence
from pathlib import Path

from tilewright.errors import DestinationError

ARRAY_SOURCE_NAME = "prediction"


def source_stem(path: Path) -> str:
    """Return the name of a source without its ending; dots inside it stay.

    Examples
    --------
    >>> source_stem(Path("a.b.tif")), source_stem(Path("raw.zarr/0")), source_stem(Path("raw.zarr/left/em"))
    ('a.b', 'raw', 'raw_left_em')
    """
    parts = path.parts
    stores = [index for index, part in enumerate(parts) if part.endswith(".zarr")]
    if not stores:
        return path.stem
    store, *inside = parts[stores[-1] :]
    return "_".join([Path(store).stem, *(inside if inside != ["0"] else [])])


def zarr_output_names(paths: Sequence[Path | None]) -> list[tuple[str, str]]:
    """Return where the predictions of the images of a run go: a folder, relative to the output folder, and a group.

    Parameters
    ----------
    paths : sequence of Path or None
        Where each source lies; None for an array.

    Raises
    ------
    DestinationError
        If two sources would share an output. It names both.

    Examples
    --------
    >>> zarr_output_names([Path("/data/a/raw.tif"), Path("/data/b/raw.tif"), None])
    [('a/raw.zarr', ''), ('b/raw.zarr', ''), ('prediction.zarr', '2')]
    """
    # One file by two names is one file, and "a/../b" lies beside "a".
    paths = [None if path is None else Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    folders = {path: _folder_of(path) for path in paths if path is not None}
    common = Path(os.path.commonpath(folders.values())) if folders else Path()
    names: list[tuple[str, str]] = []
    for index, path in enumerate(paths):
        if path is None:
            names.append((f"{ARRAY_SOURCE_NAME}.zarr", str(index)))
        else:
            names.append(((folders[path].relative_to(common) / f"{source_stem(path)}.zarr").as_posix(), ""))
    for index, name in enumerate(names):
        first = names.index(name)
        if first != index:
            raise DestinationError(
                f"the sources {paths[first]} and {paths[index]} would both be written to {name[0]}; rename one of them"
            )
        if name[1] and (name[0], "") in names:
            raise DestinationError(f"the source {paths[names.index((name[0], ''))]} and an array would share {name[0]}")
    return names


def _folder_of(path: Path) -> Path:
    """Return the folder of a file, or of the outermost Zarr store of an array."""
    inside = [parent for parent in path.parents if parent.name.endswith(".zarr")]
    return (inside[-1] if inside else path).parent
