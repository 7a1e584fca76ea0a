"""Prediction of a source by a model into a Zarr array: checked, planned, predicted, written, counted."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from tilewright.arguments import flag, whole_number
from tilewright.conversion import ValueRange
from tilewright.errors import ResumeError
from tilewright.model.described import described
from tilewright.model.predictor import Predictor
from tilewright.ome.world import GivenWorld
from tilewright.outputs.arrays import existing_array
from tilewright.outputs.fingerprint import CLUSTER, PREDICTED_BY, SERIES, SOURCE_PATH, VALUE_RANGE
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import PlanRequest, WritePlan
from tilewright.provenance.call import Call
from tilewright.runs.opened_request import PlanKeywords, opened_request
from tilewright.runs.prediction_run import PredictionRun
from tilewright.runs.report import Report
from tilewright.sources.opening import open_single_source
from tilewright.stopping import GRACE_SECONDS
from tilewright.verification import begun_output

if TYPE_CHECKING:
    import os

    from distributed import Client
    from zarr.abc.store import Store

    from tilewright.sources.readers.reader import ReadFunction


def predict_to_zarr(
    model: Any,
    source: Any,
    destination: "str | os.PathLike[str] | Store",
    *,
    axes: str | None = None,
    tile_size: Sequence[int] | None = None,
    overlap: Sequence[int] | None = None,
    layout: str = "auto",
    chunks: Sequence[int] | str = "auto",
    shards: Sequence[int] | str | None = None,
    compressors: Any = "auto",
    dtype: Any = None,
    value_range: Sequence[float] | None = None,
    fill_value: Any = 0,
    zarr_format: int = 3,
    batch_size: int = 1,
    device: str = "auto",
    client: "Client | None" = None,
    if_exists: str = "fail",
    memory_nbytes: int | None = None,
    progress: bool = True,
    on_plan: Callable[[WritePlan], None] | None = None,
    ledger: "str | os.PathLike[str] | None" = None,
    grace_seconds: float = GRACE_SECONDS,
    series: int = 0,
    read_source_func: "ReadFunction | None" = None,
    plan: WritePlan | None = None,
    levels: int | str = "auto",
    labels: bool = False,
    scale: Sequence[float] | Mapping[str, float] | None = None,
    units: str | Mapping[str, str] | None = None,
    channel_names: Sequence[str] | None = None,
    ome_version: str | None = None,
    report: "str | os.PathLike[str] | None" = None,
    output_axes: str = "STCZYX",
    padding: str | None = None,
) -> Report:
    """Predict an image tile by tile on a Dask cluster, and write the prediction to Zarr.

    Parameters
    ----------
    model : LightningModule, torch.nn.Module, callable, factory, CAREamist, or path of a checkpoint of CAREamics
        What predicts a batch ``(B, C, (Z), Y, X)``. A Lightning module is called by its ``predict_step``, a torch
        module by itself, both with a float tensor in inference mode; any other callable with an array in the data type
        of the source. A callable that needs no arguments is a factory, and is called once on each worker. A CAREamist
        or a checkpoint ``*.ckpt`` brings axes, tiles, overlap, padding, channels and normalisation; the first four may
        be given otherwise. With ``layout="compact"`` it predicts the tiles that CAREamics predicts.
    source : path, zarr.Array, numpy array or memmap, dask array
        The image. Of a path, only the window of a tile is read at a time: TIFF, Zarr, a dataset of HDF5
        (``raw.h5:/volumes/raw``, needs ``tilewright[hdf5]``) or N5 (``raw.n5/volumes/raw``, needs ``tilewright[n5]``).
        The axes of N5 are in C order, as those of HDF5: the reverse of the dimensions in its metadata.
    destination : path or zarr store
        Where the group is created whose array ``0`` is the prediction. It is an image of OME-Zarr. Where the source has
        an axis S, each sample is an image of its own: groups ``0``, ``1``, ... in the layout of bioformats2raw, each
        with its arrays. Chunks or shards of several samples leave these in one array, which is no image of OME-Zarr.
        When all units are stored, and none is given up, each channel gets the window of its finite values, also by a
        later run that resumes or repairs; labels, bools and zip files get none. A folder ``labels/NAME`` in an image of
        OME-Zarr is listed as labels of it; these are whole numbers, and their ledger lies beside the image.
    axes : str, optional
        The axes of the source in its own order, letters of ``STCZYX``; where not given those that the metadata of an
        OME-Zarr, OME-TIFF or ImageJ file name.
    tile_size, overlap : sequence of int
        Elements of a tile, and those that neighbouring tiles share, per spatial axis in the order (Z)YX.
    layout, chunks, shards, memory_nbytes, levels, labels, output_axes, padding
        As in `plan_write`.
    compressors : "auto", None, or codecs
        As in ``zarr.Group.create_array``; ``"auto"`` is Blosc with shuffled bits, LZ4 for floats and Zstandard for
        whole numbers.
    dtype : data type, optional
        The data type of the output; that of the model where not given. To whole numbers is rounded, within limits;
        floats that are too large become infinite.
    value_range : (float, float), optional
        Values of the model that become the smallest and the largest number of an integer `dtype`, linearly, rounded to
        the nearest number, half to even, in double precision. Values outside become the nearer end, NaN the lower end;
        ``report.lost_count`` counts both. The attribute ``tilewright`` of the group has ``scale`` and ``offset``, by
        which ``value = stored * scale + offset``. A model that returns whole numbers, such as labels, is refused.
    fill_value : scalar, default=0
        The fill value of the array.
    zarr_format : {3, 2}
        The version of the format.
    batch_size : int, default=1
        How many tiles the model sees at once: 1 on a CPU, and on a GPU as many as fill it.
    device : str, default="auto"
        A torch device; ``"auto"`` is a GPU where a worker has one.
    client : distributed.Client, optional
        The cluster. Where not given it is the current client's, else one in this process, closed at the end.
    if_exists : {"fail", "overwrite", "overwrite-foreign", "resume"}
        What to do where the destination exists. ``"overwrite"`` replaces an output of tilewright, and nothing else;
        it stays whole until the first unit of the new one is stored. ``"overwrite-foreign"`` replaces any Zarr group or
        array, with all that is in it; files that are no Zarr are in its way too.
        ``"resume"`` completes what an earlier run with the same source, model,
        tiles and chunks has begun, or begins; what is stored is compared with the ledger first.
    progress : bool, default=True
        Whether to show a progress line on standard error.
    ledger : path, optional
        A local folder for the ledger, which says what is stored; ``<destination>.ledger`` where not given. An output
        that is no local folder has a ledger only where this is given.
    grace_seconds : float, default=20
        How long what is in flight may take to finish where SIGTERM or SIGINT asks the run to stop.
    on_plan : callable, optional
        Is called with the plan before anything is created, to show it, say.
    series : int, default=0
        Which image of a TIFF file, or of a Zarr group, that holds several. The report says which was taken, and how
        many there are.
    scale : sequence of float, or mapping of str to float, optional
        Distance of neighbouring elements, per spatial axis in the order (Z)YX or by axis letter; that of the source
        where not given. A resumed output keeps the physical metadata that it was begun with.
    units : str, or mapping of str to str, optional
        The unit of the spatial axes, such as ``"micrometer"`` or ``"um"``, or units by axis letter; those of the source
        where not given.
    channel_names : sequence of str, optional
        A name for each channel of the output; those of the source where not given, if it has as many.
    ome_version : {"0.4", "0.5", "0.6"}, optional
        The version of OME-Zarr: 0.4 in format 2; in format 3 by default 0.5.
    report : path, optional
        An HTML file for the report of the run, which is written however the run ends. A call that is refused before it
        begins, for its arguments or a source that cannot be opened, writes none.
    read_source_func : callable, optional
        Reader of a path of any other format: takes the path and the axes, returns an array of NumPy, Zarr or Dask. It
        is sent to the workers with the path, and called once in this process and once in each worker process, which
        holds what it returns: an array of NumPy as a whole, others by the window. The file must be the same everywhere.

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
        If the source cannot be read, or the destination exists or cannot be written; a `ResumeError` if it was begun
        from something else, an `OutputInUseError` if another process is writing it.
    UnitGivenUpError
        At the end, if some tiles could not be predicted, or some objects not be stored. All others are complete.
    RunStoppedError
        If SIGTERM or SIGINT asked the run to stop, and it did so in order.

    Notes
    -----
    A resumed run must have the source and the model of the run before. The ledger holds digests of both, and no keys or
    passwords. Compared are

    * of a model its weights; of a model without weights its code and what that encloses, but not the attributes of an
      object;
    * of a file its path, size and time, and the code of the function that reads it;
    * of a Zarr source its path, its metadata and a sample of what is stored;
    * of a large array in memory 64 MiB of its elements;
    * of a dask array its graph, and the sources in it.

    The code of a function differs between versions of Python. Another `batch_size` or `device` is not refused, and may
    change last digits.

    An overwriting run never replaces a source. Outputs and sources are compared by the places where they lie, through
    stores of zarr, fsspec and obstore, memory maps and dask graphs. Where such a place cannot be known, what exists is
    left. An object store cannot rename: there the old output goes when the new one begins, its metadata last. A late
    put of a run that was held for dead may still arrive there. It has the bytes that the next run writes too, since a
    run that would write others is refused until the dead run cannot be alive.

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
    call = Call.of(predict_to_zarr, locals())
    known = described(model)
    if plan is None:
        axes = known.axes if axes is None else axes
        tile_size = known.tile_size if tile_size is None else tile_size
        overlap = known.overlap_of(tile_size) if overlap is None else overlap
        padding = known.padding if padding is None else padding
    world = GivenWorld(scale, units, channel_names)
    options = OutputOptions(compressors, fill_value, zarr_format, if_exists, given=world, ome_version=ome_version)
    # What is no plan is refused later.
    planned_dtype = getattr(getattr(plan, "request", None), "dtype", None)
    chosen, options = options.for_dtype(dtype, planned_dtype, value_range)
    is_labels = flag("labels", labels) or None
    given = PlanKeywords(
        axes, tile_size, overlap, layout, chunks, shards, chosen, memory_nbytes, levels, is_labels, output_axes, padding
    )
    opened, request = opened_request(source, given, plan, series, world, read_source_func)
    known.check_tile(request.tile_size)
    return PredictionRun(
        source=opened,
        output=Output.at(destination, ledger=ledger),
        predictor=Predictor(known.model, device),
        options=options,
        request=request,
        plan=plan,
        call=call,
        batch_size=batch_size,
        client=client,
        progress=progress,
        on_plan=on_plan,
        grace_seconds=grace_seconds,
        report=report,
    ).predict()


def repair(
    destination: "str | os.PathLike[str] | Store",
    model: Any,
    source: Any = None,
    *,
    batch_size: int = 1,
    device: str = "auto",
    client: "Client | None" = None,
    memory_nbytes: int | None = None,
    progress: bool = True,
    ledger: "str | os.PathLike[str] | None" = None,
    grace_seconds: float = GRACE_SECONDS,
    read_source_func: "ReadFunction | None" = None,
    report: "str | os.PathLike[str] | None" = None,
) -> Report:
    """Predict and write again exactly what is missing, short, damaged or given up in an output of `predict_to_zarr`.

    Parameters
    ----------
    destination : path or zarr store
        The output.
    model : LightningModule, torch.nn.Module, callable, or factory
        The model that it was predicted with.
    source : path or array, optional
        The image; the file that it was predicted from where not given.
    batch_size, device, client, memory_nbytes, progress, ledger, grace_seconds, read_source_func, report
        As in `predict_to_zarr`. With another batch size or device a model may give other last digits.

    Returns
    -------
    Report
        What was done.

    Raises
    ------
    ResumeError
        If the output has no ledger, or source or model are not those that it was begun from.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> image = np.arange(64 * 64, dtype="float32").reshape(64, 64)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/prediction.zarr"
    ...     _ = predict_to_zarr(np.negative, image, path, axes="YX", tile_size=(32, 32), overlap=(8, 8), progress=False)
    ...     report = repair(path, np.negative, image, progress=False)
    >>> report.unit_count, report.kept_unit_count
    (0, 1)
    """
    begun = begun_output(destination, ledger)
    fingerprint, plan = begun.header.fingerprint, begun.header.plan
    if fingerprint[PREDICTED_BY] != CLUSTER:
        raise ResumeError(
            f"the output {begun.output} was predicted by {fingerprint[PREDICTED_BY]}; let the trainer predict again "
            "with WriteTilesZarr(if_exists='resume'), which writes what is missing"
        )
    if source is None and fingerprint[SOURCE_PATH] is None:
        raise ResumeError(f"the output {begun.output} was predicted from an array, not from a file; pass it as source")
    if begun.output.group and not begun.output.is_label:
        raise ResumeError(f"the output {begun.output} is a group of a store; pass the whole store")
    try:
        array = existing_array(begun.output, plan)
    except FileNotFoundError:
        raise ResumeError(
            f"the array {begun.output}/{plan.stored_paths(0)[0]} is gone, or its metadata are; use predict_to_zarr "
            "with if_exists='resume', which creates it again"
        ) from None
    where = fingerprint[SOURCE_PATH] if source is None else source
    opened = open_single_source(where, fingerprint["source axes"], read_source_func, fingerprint[SERIES])
    options = OutputOptions(array.compressors, array.fill_value, array.metadata.zarr_format, "resume")
    # The user says where it is now: the path may differ, the content may not.
    opened.recorded_path = fingerprint[SOURCE_PATH]
    at: Any = begun.output.folder if begun.output.is_label else begun.output.store
    if begun.output.ledger_path is not None:
        at = destination
    return PredictionRun(
        predictor=Predictor(described(model).model, device),
        source=opened,
        output=Output.at(at, ledger=ledger),
        options=replace(options, value_range=ValueRange.of(fingerprint.get(VALUE_RANGE), plan.dtype)),
        request=PlanRequest(
            shape=opened.axes.shape,
            axes=opened.axes.names,
            tile_size=plan.tile_size,
            overlap=plan.overlap,
            layout=plan.layout,
            chunks=plan.asked_chunks,
            shards=plan.asked_shards,
            dtype=plan.dtype,
            levels=plan.factors,
            output_axes="STCZYX" if plan.stored_axes is None else "source",
            padding=plan.padding,
            labels=plan.reduction == "mode",
            memory_nbytes=None if memory_nbytes is None else whole_number("memory_nbytes", memory_nbytes),
        ),
        batch_size=batch_size,
        client=client,
        progress=progress,
        grace_seconds=grace_seconds,
        report=report,
    ).predict()
