"""A run of CAREamics over eight images that kills itself: checkpoint, folder, and the call of the model at which."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
from careamics.lightning.data import CareamicsDataModule

import tilewright as tw
from careamics import CAREamist
from tilewright.careamics import PredictionWriter

if __name__ == "__main__":
    checkpoint, folder, kill_at = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    writer = PredictionWriter(tw.WriteTilesZarr(if_exists="resume"), folder / "out")
    careamist = CAREamist(
        checkpoint_path=checkpoint, work_dir=folder / "work", callbacks=[writer], enable_progress_bar=False
    )
    config = careamist.config.data_config.convert_mode(
        "predicting", new_patch_size=(32, 32), overlap_size=(16, 16), new_batch_size=1
    )
    calls = (folder / "calls").open("a")

    def count(*_: object) -> None:
        calls.write(".")
        calls.flush()
        if calls.tell() == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    careamist.model.model.register_forward_hook(count)
    images = list(np.load(folder / "images.npy"))
    module = CareamicsDataModule(config, pred_data=images)
    careamist.trainer.predict(careamist.model, datamodule=module, return_predictions=False)
