"""A model of CAREamics predicts on a cluster what it predicts in memory: trained for seconds, predicted both ways.

python -m tilewright.examples.careamics [--directory FOLDER]
"""

from argparse import ArgumentParser
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tilewright.demo.samples import add_noise, load_microscopy_image
from tilewright.prediction import predict_to_zarr

TILE_SIZE, OVERLAP = (128, 128), (48, 48)


def run(folder: Path) -> float:
    """Train on a noisy section, predict it both ways, print the differences, and return the largest one.

    Parameters
    ----------
    folder : Path
        An empty folder for checkpoints and predictions.

    Returns
    -------
    float
        Largest difference of the two predictions, as a share of the range of values.
    """
    from careamics.config.factories import create_n2v_config  # noqa: PLC0415

    from careamics import CAREamist  # noqa: PLC0415

    noisy = add_noise(load_microscopy_image(), seed=0)
    config = create_n2v_config("example", "array", "YX", [64, 64], 8, num_epochs=1, num_steps=30)
    careamist = CAREamist(config, work_dir=folder, enable_progress_bar=False)
    careamist.train(train_data=noisy)

    (expected,), _ = careamist.predict(noisy, tile_size=TILE_SIZE, tile_overlap=OVERLAP, batch_size=1)
    report = predict_to_zarr(
        careamist, noisy, folder / "prediction.zarr", tile_size=TILE_SIZE, overlap=OVERLAP, layout="compact"
    )
    largest = float(np.abs(report.array[:] - expected).max() / np.ptp(expected))
    print(report)
    print(f"{folder / 'prediction.zarr'} differs from CAREamist.predict by {largest:.1g} of the range of values")
    return largest


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
