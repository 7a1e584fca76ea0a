"""A model and a source go in, a finished Zarr array comes out: checked, planned, predicted, written, counted."""

from collections.abc import Callable, Sequence
from operator import index
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from tilewright.coordinator import Coordinator
from tilewright.errors import GeometryError, IncompleteImageError, SourceError
from tilewright.execution.cluster import Placement, cluster_client, shares_memory
from tilewright.execution.executor import Executor
from tilewright.execution.predictor import Predictor
from tilewright.execution.report import Report, Tally
from tilewright.execution.run import Run
from tilewright.execution.work import TilePrediction
from tilewright.plan import ImageAxes, WritePlan, plan_write
from tilewright.storage.encoding import ObjectEncoder
from tilewright.storage.output import Output, OutputOptions, output_dtype
from tilewright.storage.receipts import UnitReceipt
from tilewright.storage.source import open_source
from tilewright.storage.unit_writer import UnitWriter

if TYPE_CHECKING:
    import os

    from distributed import Client
    from zarr.abc.store import Store


def predict_to_zarr(
    model: Any,
    source: Any,
    destination: "str | os.PathLike[str] | Store",
    *,
    axes: str,
    tile_size: Sequence[int],
    overlap: Sequence[int],
    layout: str = "auto",
    chunks: Sequence[int] | str = "auto",
    shards: Sequence[int] | str | None = None,
    compressors: Any = "auto",
    dtype: Any = None,
    fill_value: Any = 0,
    zarr_format: int = 3,
    batch_size: int = 1,
    device: str = "auto",
    client: "Client | None" = None,
    if_exists: str = "fail",
    memory_nbytes: int | None = None,
    progress: bool = True,
    on_plan: Callable[[WritePlan], None] | None = None,
) -> Report:
    """Predict an image tile by tile on a Dask cluster, and write the prediction to Zarr.

    Parameters
    ----------
    model : LightningModule, torch.nn.Module, callable, or factory
        What predicts a batch ``(B, C, (Z), Y, X)``. A Lightning module is called by its ``predict_step``, a torch
        module by itself, both with a float tensor in inference mode; any other callable with an array in the data type
        of the source. A callable that needs no arguments is a factory, and is called once on each worker.
    source : path, zarr.Array, numpy array or memmap, dask array
        The image. Of a TIFF or Zarr path, only the window of a tile is read at a time.
    destination : path or zarr store
        Where the group is created whose array ``0`` is the prediction.
    axes : str
        The axes of the source in its own order, letters of ``STCZYX``.
    tile_size, overlap : sequence of int
        Elements of a tile, and those that neighbouring tiles share, per spatial axis in the order (Z)YX.
    layout, chunks, shards, memory_nbytes
        As in `plan_write`.
    compressors : "auto", None, or codecs
        As in ``zarr.Group.create_array``.
    dtype : data type, optional
        The data type of the output; that of the model where not given. To whole numbers is rounded, within limits;
        floats that are too large become infinite.
    fill_value : scalar, default=0
        The fill value of the array.
    zarr_format : {3, 2}
        The version of the format.
    batch_size : int, default=1
        How many tiles the model sees at once.
    device : str, default="auto"
        A torch device; ``"auto"`` is a GPU where a worker has one.
    client : distributed.Client, optional
        The cluster. Where not given it is the current client's, else one in this process, closed at the end.
    if_exists : {"fail", "overwrite"}
        What to do where the destination exists.
    progress : bool, default=True
        Whether to show a progress line on standard error.
    on_plan : callable, optional
        Is called with the plan before anything is created, to show it, say.

    Returns
    -------
    Report
        What was done; ``report.array`` is the finished array.

    Raises
    ------
    ValueError
        If axes, tiles, chunks or shards do not fit each other, the model returns another spatial size, or the tiles do
        not fit into the memory. Nothing is created then.
    OSError
        If the source cannot be read, or the destination exists or cannot be written.

    Examples
    --------
    >>> import numpy as np, zarr
    >>> image = np.arange(64 * 64, dtype="float32").reshape(64, 64)
    >>> store = zarr.storage.MemoryStore()
    >>> report = predict_to_zarr(
    ...     np.negative, image, store, axes="YX", tile_size=(32, 32), overlap=(8, 8), progress=False
    ... )
    >>> bool((report.array[:] == -image).all())
    True
    """
    options = OutputOptions(compressors, fill_value, zarr_format, if_exists)
    if index(batch_size) < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if memory_nbytes is not None and memory_nbytes < 1:
        raise ValueError(f"memory_nbytes must be at least 1, got {memory_nbytes}")
    opened = open_source(source, axes)
    output = Output.at(destination)
    output.check(options, opened)
    output.check_shards(shards, options)
    predictor = Predictor(model, device)
    request: dict[str, Any] = {
        "tile_size": tile_size,
        "overlap": overlap,
        "layout": layout,
        "chunks": chunks,
        "shards": shards,
        "memory_nbytes": memory_nbytes,
    }
    if dtype is not None:
        request["dtype"] = output_dtype(dtype)
    _check_request(opened.axes, request)
    prediction = TilePrediction(opened, predictor, batch_size)
    with cluster_client(client) as used, Placement(used, prediction) as placement:
        if not shares_memory(used) and (opened.is_only_here or output.is_only_here):
            what = opened.name if opened.is_only_here else str(output)
            raise SourceError(f"{what} lies in the memory of this process, which the workers cannot reach; use a file")
        # The tiles alone matter to the probe, and they are the same in each plan.
        tiles_only = plan_write(opened.axes.shape, axes, tile_size, overlap, layout="compact")
        channels, model_dtype = placement.probe(tiles_only)
        request.setdefault("dtype", model_dtype.name)
        request["channels"] = channels
        plan = plan_write(opened.axes.shape, axes, **request)
        if memory_nbytes is None and plan.peak_live_nbytes > placement.memory_nbytes:
            plan = plan_write(opened.axes.shape, axes, **request | {"memory_nbytes": placement.memory_nbytes})
        if on_plan is not None:
            on_plan(plan)
        output.check_space(plan, options)
        array = output.create(plan, options)
        executor = placement.executor(plan, UnitWriter(plan, ObjectEncoder(array)))
        return _predict_and_write(plan, executor, array, str(output), progress=progress)


def _predict_and_write(plan: WritePlan, executor: Executor, array: Any, name: str, *, progress: bool) -> Report:
    tally = Tally()
    with tqdm(
        total=plan.output_nbytes,
        desc="tilewright",
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        disable=not progress,
    ) as line:

        def on_receipt(receipt: UnitReceipt) -> None:
            tally.add(receipt)
            line.set_postfix_str(f"{tally.unit_count}/{plan.unit_count} units", refresh=False)
            line.update(plan.unit_nbytes(receipt.unit))

        coordinator = Coordinator(plan)
        try:
            Run(coordinator, executor, on_receipt).predict_and_write()
        finally:
            executor.close()
    if not coordinator.is_complete:
        raise IncompleteImageError(
            f"{name}: {plan.unit_count - coordinator.written_count} of {plan.unit_count} units were not written"
        )
    return tally.report(plan, array, coordinator.peak_live_nbytes)


def _check_request(axes: ImageAxes, request: dict[str, Any]) -> None:
    """Refuse what no number of channels of the model could make right, before the model is asked for it."""
    try:
        plan_write(axes.shape, axes.names, **request | {"memory_nbytes": None})
    except GeometryError:
        if "C" in axes.names:
            raise
        try:
            plan_write(axes.shape, axes.names, **request | {"memory_nbytes": None}, channels=2)
        except GeometryError:
            pass
        else:
            return
        raise
