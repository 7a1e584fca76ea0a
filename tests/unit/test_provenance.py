"""An output says what has made it: in few bytes, without secrets, the same ones however it was completed."""

import json
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import S3Store
from tests.faults.resuming import Company, Moment, kill_client_at, ledger_of, network_of, resume
from zarr.storage import ObjectStore

import tilewright as tw
from tilewright.cli.commands import commands
from tilewright.ledger.ledger import LedgerFolder
from tilewright.provenance.call import Call
from tilewright.provenance.document import Origin

MOST_NBYTES = 2**12
SECRET = "hunter2"
CUT: dict[str, Any] = {"axes": "YX", "tile_size": (16, 16), "overlap": (4, 4), "progress": False}
ALWAYS = {"python", "tilewright", "zarr", "numpy", "dask"}


def provenance_of(group: Path) -> dict[str, Any]:
    return zarr.open_group(group, mode="r").attrs["tilewright"]["provenance"]


def nbytes_of(group: Path) -> int:
    """What the document takes of the file."""
    file = group / ("zarr.json" if (group / "zarr.json").exists() else ".zattrs")
    said = json.loads(file.read_text())
    del said.get("attributes", said)["tilewright"]["provenance"]
    return file.stat().st_size - len(json.dumps(said, indent=2))


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).random((40, 50), dtype=np.float32)


def read_by(path: Path, axes: str, token: str) -> np.ndarray:
    return np.load(path)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_prediction_says_what_has_made_it(zarr_format: int, image: np.ndarray, tmp_path: Path) -> None:
    import torch

    np.save(tmp_path / "raw.npy", image)
    output, source = tmp_path / "out.zarr", tmp_path / "raw.npy"
    model, read = torch.nn.Conv2d(1, 1, 3, padding=1), partial(read_by, token=SECRET)
    tw.predict_to_zarr(
        model, source, output, **CUT, read_source_func=read, zarr_format=zarr_format, dtype=np.dtype("u1")
    )
    said = provenance_of(output)
    fingerprint = LedgerFolder(ledger_of(output)).header().fingerprint
    assert said["versions"].keys() == ALWAYS | {"torch"}
    assert said["model"] == {"name": "Conv2d", "identity": fingerprint["model"]}
    assert said["source"] == {"path": str(source), "identity": fingerprint["source"]}
    assert (said["plan"]["tile_size"], said["plan"]["overlap"], said["plan"]["levels"]) == ([16, 16], [4, 4], 1)
    given = {"axes": "YX", "tile_size": [16, 16], "overlap": [4, 4], "dtype": "uint8", "zarr_format": zarr_format}
    given |= {"read_source_func": "functools.partial"}
    if zarr_format == 3:
        del given["zarr_format"]
    assert said["call"] == {"function": "tilewright.predict_to_zarr", "keywords": given}
    assert said["date"] == "1970-01-01T00:00:00Z"
    assert 500 < nbytes_of(output) < MOST_NBYTES
    # Other weights are another model, and nothing else that is told.
    tw.predict_to_zarr(
        torch.nn.Conv2d(1, 1, 3, padding=1), source, tmp_path / "other.zarr", **CUT, read_source_func=read
    )
    other = provenance_of(tmp_path / "other.zarr")
    assert other["model"]["name"] == "Conv2d"
    assert other["model"]["identity"] != said["model"]["identity"]
    assert other["fingerprint"] != said["fingerprint"]


def test_a_command_and_its_model_file_are_told(image: np.ndarray, tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "raw.zarr", data=image, chunks=(20, 20))
    (tmp_path / "models.py").write_text("def model(tiles):\n    return -tiles\n")
    output = tmp_path / "out.zarr"
    url = f"https://me:{SECRET}@host/lens?signature={SECRET}"
    command = f"predict {tmp_path}/raw.zarr {output} --model {tmp_path}/models.py:model --no-progress --axes YX"
    arguments = [*command.split(), "--tile-size", "16,16", "--overlap", "4,4", "--channel-name", f"seen by {url}"]
    result = CliRunner().invoke(commands, arguments)
    assert result.exit_code == 0, result.output
    said = provenance_of(output)
    assert said["call"]["command"].startswith("tilewright predict ")
    assert said["call"]["command"].endswith(
        "--tile-size 16,16 --overlap 4,4 --channel-name 'seen by https://host/lens'"
    )
    assert said["model"]["file"] == str(tmp_path / "models.py")
    assert said["model"]["name"] == "model"


def test_a_trainer_its_library_and_its_checkpoint_are_told(tmp_path: Path, image: np.ndarray) -> None:
    import pytorch_lightning as pl
    from torch.utils.data import DataLoader

    network = network_of([])
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    before = pl.Trainer(**quiet)
    before.strategy.connect(network)
    before.save_checkpoint(tmp_path / "trained.ckpt")
    dataset = tw.IterableTiledPredDataset(image, axes="YX", tile_size=(16, 16), overlaps=(4, 4))
    loader = DataLoader(dataset, collate_fn=tw.collate_tiles)
    writer = tw.PredictionWriterCallback(tw.WriteTilesZarr(shards="auto", if_exists="resume"), tmp_path / "out")
    trainer = pl.Trainer(callbacks=[writer], **quiet)
    trainer.predict(network, loader, return_predictions=False, ckpt_path=tmp_path / "trained.ckpt", weights_only=False)
    said = provenance_of(tmp_path / "out/prediction.zarr/0")
    assert said["versions"].keys() == ALWAYS | {"torch", "pytorch-lightning"}
    assert said["model"]["file"] == str(tmp_path / "trained.ckpt")
    assert said["call"] == {"function": "tilewright.WriteTilesZarr", "keywords": {"shards": "auto"}}


def test_a_written_image_says_its_call(image: np.ndarray, tmp_path: Path) -> None:
    tw.write_zarr(tmp_path / "out.zarr", image, axes="YX", scale=np.array([2, 0.5]))
    said = provenance_of(tmp_path / "out.zarr")
    assert said["call"] == {"function": "tilewright.write_zarr", "keywords": {"axes": "YX", "scale": [2.0, 0.5]}}
    assert said.keys() == {"call", "date", "source", "versions"}


# --- However it was completed.


def test_the_first_run_is_told_of_after_a_kill_a_resume_a_repair_and_a_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: np.ndarray
) -> None:
    output, source = tmp_path / "out.zarr", tmp_path / "raw.zarr"
    zarr.create_array(source, data=np.random.default_rng(0).random((240, 288), np.float32), chunks=(64, 64))
    kill_client_at(Moment(output, "records", 3), output, source, Company(str(output), 3), {}, None)
    document = output / "zarr.json"
    first = json.dumps(provenance_of(output))
    assert '"date": "1970-01-01T00:00:00Z"' in first
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    assert resume(output, Company(), source, batch_size=1).kept_unit_count
    assert json.dumps(provenance_of(output)) == first
    whole = document.read_bytes()
    next((output / "0/c").glob("*/*")).unlink()
    tw.repair(output, Company(), progress=False)
    assert document.read_bytes() == whole
    # The ledger of each run has it, so that it outlives the group.
    document.unlink()
    sorted(ledger_of(output).glob("*.ledger"))[0].unlink()
    resume(output, Company(), source)
    assert json.dumps(provenance_of(output)) == first
    resume(tmp_path / "other.zarr", Company(), source)
    assert provenance_of(tmp_path / "other.zarr") == json.loads(first) | {"date": "1970-01-02T00:00:00Z"}


def test_nothing_is_decided_by_it(image: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out.zarr"
    tw.predict_to_zarr(np.negative, image, output, **CUT, chunks=(8, 8))
    group = zarr.open_group(output)
    for provenance in ({"date": "long ago"}, "by hand", None):
        group.attrs["tilewright"] = {"arrays": ["0"], "provenance": provenance}
        report = tw.predict_to_zarr(np.negative, image, output, **CUT, chunks=(8, 8), batch_size=2, if_exists="resume")
        assert report.unit_count == 0
        assert tw.verify(output, progress=False).is_complete
        assert provenance_of(output) == provenance


def test_a_date_that_is_none_is_refused_before_anything_is_made(
    image: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("yesterday", "1e9", str(10**30)):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", text)
        with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH must be whole seconds"):
            tw.predict_to_zarr(np.negative, image, tmp_path / "out.zarr", **CUT)
        with pytest.raises(ValueError, match="SOURCE_DATE_EPOCH"):
            tw.write_zarr(tmp_path / "out.zarr", image)
    assert not list(tmp_path.iterdir())


# --- Small, and without secrets.


def test_a_store_with_keys_is_told_of_without_them() -> None:
    store = ObjectStore(
        S3Store("bucket", prefix="raw", access_key_id=SECRET, secret_access_key=SECRET, region="eu-west-1")
    )
    given = {"compressors": store, "chunks": {"url": f"s3://me:{SECRET}@bucket/raw", f"https://x:{SECRET}@y": 1}}
    call = Call.of(tw.predict_to_zarr, dict.fromkeys(tw.predict_to_zarr.__kwdefaults__) | given)
    told = json.dumps(Origin(call).of_image("an array"))
    assert "s3://bucket/raw" in told
    assert SECRET not in told


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.text().map(lambda text: 400 * text),
    lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(), inner, max_size=40),
    max_leaves=20,
)


@given(st.data())
def test_it_is_json_and_small_whatever_is_given(data: Any) -> None:
    function = data.draw(st.sampled_from([tw.predict_to_zarr, tw.write_zarr, tw.WriteTilesZarr]))
    names = list(signature(function).parameters)
    given = data.draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=6))
    origin = Origin(Call.of(function, dict.fromkeys(names) | given))
    said = origin.of_image(data.draw(st.text()) * 5000)
    stored = zarr.create_group({}, attributes={"tilewright": {"provenance": said}})
    assert stored.attrs["tilewright"]["provenance"] == said
    (document,) = (value.to_bytes() for key, value in stored.store._store_dict.items())
    assert len(document) < MOST_NBYTES + 200
    assert said.keys() == {"call", "date", "source", "versions"}


def test_a_long_keyword_and_a_long_path_are_cut_in_their_middle(image: np.ndarray, tmp_path: Path) -> None:
    names = [3000 * "µ" + " last"]
    deep = tmp_path.joinpath(*(str(number) + 100 * "d" for number in range(9)))
    deep.mkdir(parents=True)
    zarr.create_array(deep / "raw.zarr", data=image, chunks=(20, 20))
    output = tmp_path / "out.zarr"
    tw.predict_to_zarr(np.negative, deep / "raw.zarr", output, **CUT, channel_names=names)
    said = provenance_of(output)
    assert said["source"]["path"].startswith(str(tmp_path)[:20])
    assert said["source"]["path"].endswith("d/raw.zarr")
    assert said["call"]["keywords"]["channel_names"].endswith('last"]')
    assert said["call"]["keywords"]["tile_size"] == [16, 16]
    assert nbytes_of(output) < MOST_NBYTES
