"""Random outputs, their digests and what they cost, compared with those that an earlier version has recorded.

``--record`` writes the file that is compared with later. A change of rooms, names or words changes none of it: neither
a stored byte, nor the number of tasks, of sets, or of gets.
"""

import argparse
import json
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from distributed import Client
from xxhash import xxh3_128_hexdigest
from zarr.storage import MemoryStore, WrapperStore

import tilewright as tw
from benchmarks.processes import client_of_processes

RECORDED = Path(__file__).parent / "recorded_outputs.json"
COUNT = 20


class CountingStore(WrapperStore[MemoryStore]):
    """A store in memory that counts the sets and gets of objects, not of metadata."""

    def __init__(self) -> None:
        super().__init__(MemoryStore())
        self.counts: Counter[str] = Counter()

    async def set(self, key: str, value: Any) -> None:
        self._count("sets", key)
        await super().set(key, value)

    async def get(self, key: str, *rest: Any, **named: Any) -> Any:
        self._count("gets", key)
        return await super().get(key, *rest, **named)

    def _count(self, what: str, key: str) -> None:
        if "zarr.json" not in key and "lock" not in key and not key.rpartition("/")[2].startswith(".z"):
            self.counts[what] += 1

    def content(self) -> dict[str, bytes]:
        stored = self._store._store_dict
        return {key: value.to_bytes() for key, value in stored.items() if "lock" not in key}


def configurations() -> list[dict[str, Any]]:
    """Return what is predicted: shapes, tiles, chunks, shards, types and layouts, drawn with one seed."""
    draw = random.Random(15)
    drawn = []
    for number in range(COUNT):
        axes = draw.choice(["YX", "ZYX", "CYX", "SYX", "TYX", "CZYX"])
        spatial = [name for name in axes if name in "ZYX"]
        extents = {name: draw.randint(12, 24) if name == "Z" else draw.randint(300, 700) for name in spatial}
        tile = [draw.randint(8, 9) if name == "Z" else draw.randint(64, 150) for name in spatial]
        options: dict[str, Any] = {
            "layout": draw.choice(["auto", "compact", "aligned"]),
            "compressors": draw.choice([None, "auto"]),
            "dtype": draw.choice([None, "uint16", "float32"]),
            "zarr_format": draw.choice([3, 3, 2]),
            "batch_size": draw.choice([1, 3]),
        }
        if draw.random() < 0.6:
            options["chunks"] = [draw.randint(4, 8) if name == "Z" else draw.randint(24, 90) for name in spatial]
            if options["zarr_format"] == 3 and draw.random() < 0.5:
                options["shards"] = [2 * extent for extent in options["chunks"]]
        drawn.append(
            {
                "seed": number,
                "axes": axes,
                "shape": [extents.get(name, 2) for name in axes],
                "tile_size": tile,
                "overlap": [2 * draw.randint(0, (extent - 1) // 4) for extent in tile],
                "options": options,
            }
        )
    return drawn


def image_of(configuration: dict[str, Any]) -> np.ndarray:
    rng = np.random.default_rng(configuration["seed"])
    return rng.integers(0, 4000, configuration["shape"]).astype("float32")


def tiles_of(configuration: dict[str, Any]) -> dict[str, Any]:
    return {name: configuration[name] for name in ("axes", "tile_size", "overlap")}


def played_here(configuration: dict[str, Any]) -> dict[str, Any]:
    """Return digests and counts of one configuration in this process, predicted by a model and by a trainer."""
    image, tiles, options = image_of(configuration), tiles_of(configuration), configuration["options"]
    store = CountingStore()
    report = tw.predict_to_zarr(np.negative, image, store, **tiles, **options, progress=False)
    found = {
        "tiles": report.plan.tile_count,
        "units": report.plan.unit_count,
        "objects": report.plan.object_count,
        "sets": store.counts["sets"],
        "gets": store.counts["gets"],
        "here": digest(store.content()),
    }
    with tempfile.TemporaryDirectory() as folder:
        writer_options = {name: value for name, value in options.items() if name not in ("layout", "batch_size")}
        dataset = tw.IterableTiledPredDataset(image, configuration["axes"], tiles["tile_size"], tiles["overlap"])
        trainer = SimpleNamespace(predict_dataloaders=SimpleNamespace(dataset=dataset))
        writer = tw.WriteTilesZarr(**writer_options)
        for number, (tile, information) in enumerate(dataset):
            prediction = -np.asarray(tile)[np.newaxis]
            writer.write_batch(trainer, None, (prediction, [information]), None, None, number, 0, folder)
        writer.finalize()
        found["trainer"] = digest(files(Path(folder, "prediction.zarr")))
    return found


def played_on(configuration: dict[str, Any], client: Client) -> dict[str, Any]:
    """Return the digest of one configuration on worker processes, and the number of its tasks."""
    image, tiles, options = image_of(configuration), tiles_of(configuration), configuration["options"]
    submitted: Counter[str] = Counter()
    submit = Client.submit

    def counted(self: Client, function: Any, *rest: Any, key: Any = None, **named: Any) -> Any:
        if isinstance(key, tuple) and str(key[0]).startswith("tilewright-"):
            submitted[str(key[0]).split("-")[1]] += 1
        return submit(self, function, *rest, key=key, **named)

    with tempfile.TemporaryDirectory() as folder, patch.object(Client, "submit", counted):
        tw.predict_to_zarr(np.negative, image, f"{folder}/out.zarr", **tiles, **options, client=client, progress=False)
        stored = digest(files(Path(folder, "out.zarr")))
    return {"processes": stored, "tasks": dict(sorted(submitted.items()))}


def files(folder: Path) -> dict[str, bytes]:
    """Return the content of each file of an output by its name."""
    paths = (path for path in folder.rglob("*") if path.is_file() and ".ledger" not in str(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def digest(content: dict[str, bytes]) -> str:
    """Return one digest of all names and bytes, without the provenance, which has versions of this environment."""
    told = (name.encode() + b"\0" + without_provenance(name, content[name]) for name in sorted(content))
    return xxh3_128_hexdigest(b"".join(told))


def without_provenance(name: str, content: bytes) -> bytes:
    """Return a file; of the attributes of a group, without what has made the output."""
    if name.rpartition("/")[2] not in ("zarr.json", ".zattrs"):
        return content
    document = json.loads(content)
    own = document.get("attributes", document).get("tilewright", {})
    # As zarr writes it, so that nothing else changes.
    return json.dumps(document, indent=2).encode() if own.pop("provenance", None) else content


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", action="store_true", help="write what is compared with later")
    arguments = parser.parse_args()
    found = [{**configuration, **played_here(configuration)} for configuration in configurations()]
    # Only now: a client is that of all runs that are not given one.
    client = client_of_processes(2)
    found = [{**configuration, **played_on(configuration, client)} for configuration in found]
    client.close()
    if arguments.record:
        RECORDED.write_text("[\n" + ",\n".join(map(json.dumps, found)) + "\n]\n")
        print(f"{len(found)} outputs are recorded in {RECORDED.name}")
        return 0
    recorded = json.loads(RECORDED.read_text())
    differing = [
        f"{was['seed']}: {name} was {was[name]}, is {now[name]}"
        for was, now in zip(recorded, json.loads(json.dumps(found)), strict=True)
        for name in was
        if was[name] != now[name]
    ]
    print("\n".join(differing) or f"{len(found)} outputs are as recorded: bytes, tasks, sets and gets")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
