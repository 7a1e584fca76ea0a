"""A model of CAREamics predicts on a cluster what it predicts in memory: trained for seconds, predicted in three ways.

python -m tilewright.examples.careamics [--directory FOLDER]
"""

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import zarr

from tilewright.careamics import PredictionWriter
from tilewright.demo.samples import add_noise, load_microscopy_image
from tilewright.prediction import predict_to_zarr
from tilewright.strategies import WriteTilesZarr

TILE_SIZE, OVERLAP = (128, 128), (48, 48)


def run(folder: Path) -> float:
    """Train on a noisy section, predict it in memory, by the callback and on a cluster, and print the differences.

    Parameters
    ----------
    folder : Path
        An empty folder for checkpoints and predictions.

    Returns
    -------
    float
        Largest difference from the prediction in memory, as a share of its range of values.
    """
    from careamics.config.factories import create_n2v_config  # noqa: PLC0415

    from careamics import CAREamist  # noqa: PLC0415

    noisy = add_noise(load_microscopy_image(), seed=0)
    config = create_n2v_config("example", "array", "YX", [64, 64], 8, num_epochs=1, num_steps=30)
    writer = PredictionWriter(WriteTilesZarr(), folder / "callback")
    careamist = CAREamist(config, work_dir=folder, callbacks=[writer], enable_progress_bar=False)
    careamist.train(train_data=noisy)

    # The callback writes what CAREamics returns.
    (expected,), _ = careamist.predict(noisy, tile_size=TILE_SIZE, tile_overlap=OVERLAP, batch_size=1)
    report = predict_to_zarr(
        careamist, noisy, folder / "cluster.zarr", tile_size=TILE_SIZE, overlap=OVERLAP, layout="compact"
    )
    print(report)
    differences = []
    for place in (folder / "callback" / "prediction.zarr" / "0", folder / "cluster.zarr"):
        found = zarr.open_array(place / "0", mode="r")[:]
        differences.append(float(np.abs(found - expected).max() / np.ptp(expected)))
        print(f"{place} differs from CAREamist.predict by {differences[-1]:.1g} of the range of values")
    return max(differences)


def main() -> None:
    """Run the example."""
    parser = ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--directory", type=Path, help="an empty folder for what is written; a temporary one if not given"
    )
    given = parser.parse_args().directory
    with TemporaryDirectory() as temporary:
        run((given or Path(temporary)).absolute())


if __name__ == "__main__":
    main()
