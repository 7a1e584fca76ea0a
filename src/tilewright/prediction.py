"""A model and a source go in, a finished Zarr array comes out: checked, planned, predicted, written, counted."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from tilewright.arguments import flag, seconds, whole_number
from tilewright.errors import GeometryError, NotSharedError, ResumeError, SourceError
from tilewright.executors.placement import Placement
from tilewright.model.predictor import Predictor
from tilewright.model.tile_prediction import TilePrediction
from tilewright.outputs.apart import check_apart
from tilewright.outputs.arrays import existing_array, template_array
from tilewright.outputs.fingerprint import CLUSTER, PREDICTED_BY, SERIES, SOURCE_PATH, fingerprint_of
from tilewright.outputs.options import OutputOptions, output_dtype
from tilewright.outputs.output import FULL_RESOLUTION, Output
from tilewright.plan import ImageAxes, WritePlan, plan_write, with_memory
from tilewright.runs.output_run import OutputRun
from tilewright.runs.progress import Progress
from tilewright.runs.report import Report
from tilewright.sources.opening import open_source
from tilewright.sources.source import Source
from tilewright.stopping import GRACE_SECONDS, StopRequest, listening
from tilewright.transport.clients import cluster_client, shares_memory
from tilewright.verification import begun_output

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
    ledger: "str | os.PathLike[str] | None" = None,
    grace_seconds: float = GRACE_SECONDS,
    series: int = 0,
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
        As in ``zarr.Group.create_array``; ``"auto"`` is Blosc with shuffled bits, LZ4 for floats and Zstandard for
        whole numbers.
    dtype : data type, optional
        The data type of the output; that of the model where not given. To whole numbers is rounded, within limits;
        floats that are too large become infinite.
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
    * of a file its path, size and time;
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
    options = OutputOptions(compressors, fill_value, zarr_format, if_exists)
    grace_seconds = seconds("grace_seconds", grace_seconds)
    if on_plan is not None and not callable(on_plan):
        raise TypeError(f"on_plan must be a function of a plan, got {on_plan!r:.80}")
    batch_size = whole_number("batch_size", batch_size)
    if memory_nbytes is not None:
        memory_nbytes = whole_number("memory_nbytes", memory_nbytes)
    progress = flag("progress", progress)
    chosen = None if dtype is None else output_dtype(dtype)
    options.check_dtype(chosen or "float64")
    opened = source if isinstance(source, Source) else open_source(source, axes, series=series)
    output = Output.at(destination, ledger=ledger)
    check_apart(output.targets(options), [opened])
    output.check(options)
    options.check_shards(shards)
    predictor = Predictor(model, device)
    request: dict[str, Any] = {
        "tile_size": tile_size,
        "overlap": overlap,
        "layout": layout,
        "chunks": chunks,
        "shards": shards,
        "memory_nbytes": memory_nbytes,
    }
    if chosen is not None:
        request["dtype"] = chosen
    _check_request(opened.axes, request)
    prediction = TilePrediction(opened, predictor, batch_size, is_converted=dtype is not None)
    stop = StopRequest(grace_seconds, progress=lambda: _written_before(output, options))
    with (
        listening(stop),
        cluster_client(client) as used,
        opened.held_by(used, stop.check),
        Placement(used, prediction, stop) as placement,
        Progress(progress, stop) as line,
    ):
        stop.check()
        if not shares_memory(used):
            _check_shared(opened, output)
        # The tiles alone matter to the probe, and they are the same in each plan.
        probe = placement.probe(plan_write(opened.axes.shape, axes, tile_size, overlap, layout="compact"))
        request.setdefault("dtype", probe.dtype)
        options.check_dtype(request["dtype"])
        request["channels"] = probe.channels
        output_run = OutputRun(output, options, placement, line)
        begun = header.plan if (header := output_run.header()) else None
        within_nbytes = memory_nbytes or placement.memory_nbytes
        asked_for = _asked_for(opened.axes, request, begun, within_nbytes)
        template = template_array(asked_for, options)
        fingerprint = fingerprint_of(opened, probe.identity, CLUSTER, asked_for, template)
        output_run.check_same(fingerprint)
        plan = asked_for if begun is None else with_memory(begun, within_nbytes)
        if on_plan is not None:
            on_plan(plan)
        line.expect(plan)
        with output_run:
            run = output_run.begin(plan, fingerprint)
            output_run.tally.notes = opened.notes
            run.predict_and_write(stop, lambda: memory_nbytes or placement.memory_nbytes)
            return output_run.report()


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
    batch_size, device, client, memory_nbytes, progress, ledger, grace_seconds
        As in `predict_to_zarr`. With another batch size or device a model may give other last digits.

    Returns
    -------
    Report
        What was done.

    Raises
    ------
    ResumeError
        If nobody knows what the output was begun from, or source or model are not what it was begun from.

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
    if begun.output.group:
        raise ResumeError(f"the output {begun.output} is a group of a store; pass the whole store")
    try:
        array = existing_array(begun.output)
    except FileNotFoundError:
        raise ResumeError(
            f"the array {begun.output}/{FULL_RESOLUTION} is gone, or its metadata are; use predict_to_zarr with "
            "if_exists='resume', which creates it again"
        ) from None
    opened = open_source(
        fingerprint[SOURCE_PATH] if source is None else source, fingerprint["source axes"], series=fingerprint[SERIES]
    )
    # Whoever says where it is now says that it is the same.
    opened.recorded_path = fingerprint[SOURCE_PATH]
    return predict_to_zarr(
        model,
        opened,
        destination if begun.output.ledger_path is not None else begun.output.store,
        axes=fingerprint["source axes"],
        tile_size=plan.tile_size,
        overlap=plan.overlap,
        layout=plan.layout,
        chunks=plan.chunks,
        shards=plan.shards,
        compressors=array.compressors,
        dtype=plan.dtype,
        fill_value=array.fill_value,
        zarr_format=array.metadata.zarr_format,
        batch_size=batch_size,
        device=device,
        client=client,
        if_exists="resume",
        memory_nbytes=memory_nbytes,
        progress=progress,
        ledger=ledger,
        grace_seconds=grace_seconds,
    )


def _check_shared(source: Source, output: Output) -> None:
    """Refuse what one process alone can read or write, where other processes would have to."""
    if source.is_only_here:
        raise SourceError(f"the source {source.name} {source.is_only_here}")
    if output.is_only_here:
        raise NotSharedError(f"the output {output} {output.is_only_here}")


def _asked_for(axes: ImageAxes, request: dict[str, Any], begun: WritePlan | None, memory_nbytes: int) -> WritePlan:
    """Return the plan of a request; of an output that was begun, what only that run has chosen stays."""
    if begun is None:
        plan = plan_write(axes.shape, axes.names, **request)
        if request["memory_nbytes"] is None and plan.peak_live_nbytes > memory_nbytes:
            plan = plan_write(axes.shape, axes.names, **request | {"memory_nbytes": memory_nbytes})
        return plan
    # The cluster of that run may have had another memory.
    request = request | {"memory_nbytes": None}
    chosen = {name: getattr(begun, name) for name in ("layout", "chunks", "shards") if request[name] == "auto"}
    if chosen.get("shards", ()) is None:
        # There were none, and now there would be.
        del chosen["shards"]
    try:
        return plan_write(axes.shape, axes.names, **request | chosen)
    except GeometryError:
        # Of another image; what differs is said when all of it is known.
        return plan_write(axes.shape, axes.names, **request)


def _written_before(output: Output, options: OutputOptions) -> str:
    """Return in words what an earlier run has written, as its ledger says."""
    if options.if_exists == "resume" and output.ledger is not None:
        with suppress(OSError):
            header = output.header()
            if header is not None:
                return f"{output.ledger.records().written_count} of {header.plan.unit_count} units are written"
    return "nothing is written"


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
