"""A prediction on a cluster, from an opened source and a request to the report."""

from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tilewright.arguments import flag, seconds, whole_number
from tilewright.errors import GeometryError, NotSharedError, RunStoppedError, SourceError
from tilewright.executors.placement import Placement
from tilewright.model.predictor import Predictor
from tilewright.model.tile_prediction import Probe, TilePrediction
from tilewright.outputs.apart import check_apart
from tilewright.outputs.arrays import template_arrays
from tilewright.outputs.fingerprint import CLUSTER, Fingerprint, fingerprint_of
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.plan import PlanRequest, WritePlan, plan_of, with_memory
from tilewright.provenance.call import Call
from tilewright.provenance.document import Origin, Provenance
from tilewright.runs.output_run import OutputRun
from tilewright.runs.progress import Progress
from tilewright.runs.report import Report
from tilewright.runs.reporting.ending import Ending
from tilewright.runs.reporting.saving import SavedReport
from tilewright.sources.source import Source
from tilewright.stopping import StopRequest, listening
from tilewright.transport.clients import cluster_client, shares_memory

if TYPE_CHECKING:
    import os

    from distributed import Client


@dataclass(frozen=True)
class PredictionRun:
    """All that one prediction needs.

    Parameters
    ----------
    predictor, source, output : Predictor, Source, Output
        The model, the image, and where the prediction goes.
    options : OutputOptions
        How it is stored.
    request : PlanRequest
        What is asked for of tiles, storage and memory.
    plan : WritePlan or None
        A plan to execute as it is; one is chosen for the request where there is none.
    call : Call
        The call that asked for it.
    batch_size, client, progress, on_plan, grace_seconds, report
        As in `predict_to_zarr`.
    """

    predictor: Predictor
    source: Source
    output: Output
    options: OutputOptions
    request: PlanRequest
    plan: WritePlan | None = None
    call: Call = field(default_factory=Call)
    batch_size: int = 1
    client: "Client | None" = None
    progress: bool = True
    on_plan: Callable[[WritePlan], None] | None = None
    grace_seconds: float = 0.0
    report: "str | os.PathLike[str] | None" = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch_size", whole_number("batch_size", self.batch_size))
        object.__setattr__(self, "grace_seconds", seconds("grace_seconds", self.grace_seconds))
        flag("progress", self.progress)
        if self.on_plan is not None and not callable(self.on_plan):
            raise TypeError(f"on_plan must be a function of a plan, got {self.on_plan!r:.80}")
        axes, world = self.source.axes.names, self.source.world
        options = self.options.for_image(axes, world, is_label=self.output.is_label)
        object.__setattr__(self, "options", options)
        if options.is_label and not self.request.labels:
            if self.plan is not None:
                raise GeometryError(f"the plan is not one of labels, and {self.output} is; plan with labels=True")
            object.__setattr__(self, "request", replace(self.request, labels=True))

    def predict(self) -> Report:
        """Predict and write, and return what was done.

        Raises
        ------
        Exception
            As in `predict_to_zarr`.
        """
        with SavedReport(self.report, str(self.output)) as saved:
            return self._predict(saved)

    def _predict(self, saved: SavedReport) -> Report:
        self._check()
        origin = Origin(self.call)
        value_range = self.options.value_range
        is_converted = self.request.dtype is not None
        prediction = TilePrediction(self.source, self.predictor, self.batch_size, is_converted, value_range)
        stop = StopRequest(self.grace_seconds, progress=self._written_before)
        with (
            listening(stop),
            closing(self.source),
            cluster_client(self.client) as client,
            self.source.held_by(client, stop.check),
            Placement(client, prediction, stop) as placement,
            closing(Progress(self.progress, stop)) as line,
        ):
            stop.check()
            if not shares_memory(client):
                self._check_shared()
            # The tiles alone matter to the probe, and they are the same in each plan.
            tiles = replace(self.request, layout="compact", chunks="auto", shards=None, memory_nbytes=None)
            probe = placement.probe(plan_of(tiles))
            self.options.check_dtype(self.request.dtype or probe.dtype)
            if value_range is not None:
                value_range.check(probe.dtype)
            output_run = OutputRun(self.output, self.options, placement, line)
            asked = _AskedPrediction(self, origin, probe, self.request.memory_nbytes or placement.memory_nbytes)
            beginning = output_run.open(asked)
            if self.on_plan is not None:
                self.on_plan(beginning.plan)
            line.expect(beginning.plan)
            with output_run:
                run = output_run.begin(beginning)
                output_run.tally.notes, output_run.tally.source = self.source.notes, self.source
                saved.so_far = output_run.report_so_far
                try:
                    run.predict_and_write(stop, lambda: self.request.memory_nbytes or placement.memory_nbytes)
                except RunStoppedError as error:
                    error.report = output_run.report_so_far(Ending.of(error))
                    raise
                return output_run.report()

    def _check(self) -> None:
        """Refuse what can be refused before the model is loaded."""
        if self.source.axes.shape != self.request.shape:
            raise GeometryError(
                f"the plan is for an image of shape {self.request.shape}, axes {self.request.axes}, and the source "
                f"{self.source.name} has the shape {self.source.axes.shape}; plan with plan_write(source, ...)"
            )
        self.options.check_dtype(self.request.dtype or "float64")
        # The image that is labelled may be the source.
        source = self.source.array_alone() if self.output.is_label else self.source
        check_apart(self.output.targets(self.options), [source])
        self.output.check(self.options)
        self.options.check_shards(self.request.shards)
        _check_request(self.request)

    def _check_shared(self) -> None:
        """Refuse what one process alone can read or write, where other processes would have to."""
        if self.source.is_only_here:
            raise SourceError(f"the source {self.source.name} {self.source.is_only_here}")
        if self.output.is_only_here:
            raise NotSharedError(f"the output {self.output} {self.output.is_only_here}")

    def _written_before(self) -> str:
        """Return in words what an earlier run has written, as its ledger says."""
        ledger = self.output.ledger
        with suppress(OSError):
            if self.options.if_exists == "resume" and ledger is not None and (header := self.output.header()):
                return f"{ledger.records().written_count} of {header.plan.unit_count} units are written"
        return "nothing is written"


@dataclass(frozen=True)
class _AskedPrediction:
    """What a prediction is asked to write, once its model is known."""

    run: PredictionRun
    origin: Origin
    probe: Probe
    memory_nbytes: int

    def plan(self, begun: WritePlan | None) -> WritePlan:
        if self.run.plan is not None:
            return self._given_plan(self.run.plan)
        dtype = self.run.request.dtype or self.probe.dtype
        request = replace(self.run.request, dtype=dtype, channels=self.probe.channels)
        if begun is None:
            plan = plan_of(request)
            if request.memory_nbytes is None and plan.peak_live_nbytes > self.memory_nbytes:
                plan = plan_of(replace(request, memory_nbytes=self.memory_nbytes))
            return plan
        # The cluster of that run may have had another memory.
        request = replace(request, memory_nbytes=None)
        try:
            return plan_of(request.with_choices_of(begun))
        except GeometryError:
            # Of another image; what differs is said when all of it is known.
            return plan_of(request)

    def fingerprint(self, plan: WritePlan) -> Fingerprint:
        options = self.run.options
        templates = template_arrays(plan, options)
        return fingerprint_of(self.run.source, self.probe.model.identity, CLUSTER, plan, templates, options.value_range)

    def provenance(self, plan: WritePlan, fingerprint: Fingerprint) -> Provenance:
        return self.origin.of_prediction(plan, fingerprint, self.probe.model, self.run.source.name)

    def continued(self, begun: WritePlan, plan: WritePlan) -> WritePlan:
        return with_memory(begun, self.memory_nbytes)

    def _given_plan(self, plan: WritePlan) -> WritePlan:
        """Return a plan that is to be executed as it is, where it is one of this model."""
        if plan.channels != self.probe.channels:
            raise GeometryError(
                f"the plan has {plan.channels} channels, and the model returns {self.probe.channels}; plan with "
                f"plan_write(..., channels={self.probe.channels})"
            )
        if self.run.request.dtype is None and plan.dtype != self.probe.dtype:
            raise GeometryError(
                f"the plan is for {plan.dtype}, and the model returns {self.probe.dtype}; plan with "
                f"plan_write(..., dtype={self.probe.dtype!r}), or with the data type that the output shall have"
            )
        return plan if plan.peak_live_nbytes <= self.memory_nbytes else with_memory(plan, self.memory_nbytes)


def _check_request(request: PlanRequest) -> None:
    """Refuse what no number of channels of the model could make right, before the model is asked for it."""
    request = replace(request, memory_nbytes=None)
    try:
        plan_of(request)
    except GeometryError:
        if "C" not in request.axes:
            with suppress(GeometryError):
                plan_of(replace(request, channels=2))
                return
        raise
