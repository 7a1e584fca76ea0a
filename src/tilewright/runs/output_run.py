"""One output, from its lock to its report: created or resumed, and recorded unit by unit.

A unit goes to the ledger after its objects are stored. So a run that resumes finds more than the ledger says, never
less.
"""

import logging
import sys
from contextlib import ExitStack, suppress
from dataclasses import replace
from threading import Thread
from typing import Self

from tilewright.coordinator import Coordinator
from tilewright.errors import NotSharedError, OutputInUseError, ResumeError, RunStoppedError, UnitGivenUpError
from tilewright.executors.placement import Placement
from tilewright.ledger.header import EVERYTHING, OUTPUT, Header
from tilewright.ledger.ledger import Ledger
from tilewright.ledger.receipts import UnitReceipt
from tilewright.ledger.records import Records
from tilewright.objects.digest import sum_of_digests
from tilewright.objects.encoding import ObjectEncoder
from tilewright.objects.extremes import ImageExtremes
from tilewright.objects.stored_array import StoredArray
from tilewright.objects.unit_checker import UnitChecker
from tilewright.objects.unit_writer import UnitWriter
from tilewright.outputs.arrays import Arrays, create_arrays, open_arrays, template_arrays
from tilewright.outputs.group_attributes import write_windows
from tilewright.outputs.options import OutputOptions
from tilewright.outputs.output import Output
from tilewright.outputs.replacement import Replacement
from tilewright.outputs.surplus import remove_surplus
from tilewright.plan import WritePlan
from tilewright.runs.beginning import Asked, Beginning, check_last_holder, decided_again, open_run
from tilewright.runs.callbacks import Callbacks
from tilewright.runs.checking import check_units
from tilewright.runs.report import Report, Tally, describe_given_up
from tilewright.runs.reporting.ending import COMPLETE, GIVEN_UP, Ending
from tilewright.runs.reporting.history import History
from tilewright.runs.run import Run
from tilewright.runs.witness import Witness
from tilewright.stores.metadata import array_metadata

_log = logging.getLogger(__name__)


class OutputRun:
    """Write one output, or what is missing of it.

    Parameters
    ----------
    output : Output
        Where it lies.
    options : OutputOptions
        How it is stored, and what to do where it exists.
    placement : Placement
        Where the work is carried out.
    callbacks : Callbacks, optional
        Progress of the run.
    """

    def __init__(
        self, output: Output, options: OutputOptions, placement: Placement, callbacks: Callbacks | None = None
    ) -> None:
        self.output = output
        self.options = options
        self._placement = placement
        self._callbacks = callbacks or Callbacks()
        self._opened = ExitStack()
        self._lock = output.lock()
        self._replacement = Replacement(output, self._lock.check)
        self._finishing: Thread | None = None
        self._is_replacing = False
        self._has_begun_to_replace = False
        self._number = 1
        self._ledger: Ledger | None = None
        self._run: Run | None = None
        self._coordinator: Coordinator | None = None
        self.tally = Tally()

    def __enter__(self) -> Self:
        self.lock()
        return self

    def __exit__(self, *details: object) -> None:
        self.close()

    def lock(self) -> None:
        """Take the right to write the output, or raise OutputInUseError where another process has it."""
        ledger = self.output.ledger
        number = 1 if ledger is None else ledger.next_number()
        self._lock.acquire(number, has_workers=not self._placement.is_here)
        # A run that has just ended may have taken the number.
        self._number = max(self._lock.number, number if ledger is None else ledger.next_number())
        self._opened.callback(self._lock.release)
        if not self._placement.is_here:
            # Workers that are killed leave them, and no other process may remove them while the lock is held.
            self._opened.callback(self._remove_partial_files)

    def header(self) -> Header | None:
        """Return what the output was begun from, where it is to be completed and was begun."""
        return self.output.header() if self.options.if_exists == "resume" else None

    def open(self, asked: Asked) -> Beginning:
        """Return how the run begins: fresh, or where an earlier run has left the output.

        Raises
        ------
        ResumeError, OutputInUseError
            If the earlier run has begun something else; if another run is writing that.
        """
        try:
            return open_run(self.output, self.header(), asked)
        except ResumeError:
            if not self._lock.number:
                # Where another run is writing it, that is what the user must know.
                self.lock()
                self.close()
            raise

    def begin(self, beginning: Beginning) -> Run:
        """Create the output, or check what is there of it, and return the loop that writes the rest.

        Raises
        ------
        ResumeError, DestinationError
            If another run has begun something else there since; if the output cannot be created.
        """
        beginning = decided_again(self.output, self.header(), beginning)
        plan = beginning.plan
        self._check_reach()
        if beginning.is_resumed:
            self._replacement.go_on()
            self._is_replacing = self._replacement.is_pending
            arrays = open_arrays(self.output, plan, self.options, beginning.provenance)
        else:
            # Again, now that no other run can create it.
            self.output.check(self.options)
            self.output.check_space(self.options, plan.output_nbytes)
            arrays = self._create(beginning)
        self.output.remove_partial_files_around()
        writer = UnitWriter(plan, tuple(map(ObjectEncoder, arrays)), guard=self._lock.guard())
        self._extremes = ImageExtremes(plan)
        kept = self._kept_units(writer, beginning) if beginning.is_resumed else []
        self._callbacks.kept(len(kept), self.tally.kept_nbytes)
        executor = self._placement.executor(plan, writer)
        self._opened.callback(executor.close)
        self._writer = writer
        self._witness = Witness(plan, self.output, writer.encoders, self._lock.check)
        self._history = History(plan)
        self._history.kept(kept)
        self._coordinator = Coordinator(plan, written=kept)
        self._run = Run(self._coordinator, executor, self)
        return self._run

    def _kept_units(self, writer: UnitWriter, beginning: Beginning) -> list[int]:
        """Return the units that need not be written again, and begin a file of the ledger where others must."""
        plan = writer.plan
        kept = self._intact_units(writer)
        # Of the others there are fewer, mostly, and each costs some microseconds.
        missing_nbytes = plan.output_nbytes
        if kept:
            missing_nbytes = sum(map(plan.unit_nbytes, set(range(plan.unit_count)).difference(kept)))
        kept_nbytes = plan.output_nbytes - missing_nbytes
        self.tally = Tally(kept_unit_count=len(kept), kept_nbytes=kept_nbytes, digest=self._kept_digest)
        self.output.check_space(self.options, missing_nbytes)
        if len(kept) < plan.unit_count:
            self._append_to_ledger(self._new_header(beginning))
        return kept

    @property
    def plan(self) -> WritePlan:
        """The plan, once the output has begun."""
        return self._writer.plan

    @property
    def array(self) -> StoredArray:
        """The array at full resolution."""
        return self._writer.encoders[0].array

    @property
    def run(self) -> Run:
        """The loop that writes the output, once it has begun."""
        if self._run is None:
            raise RuntimeError(f"the output {self.output} has not begun")
        return self._run

    def report(self) -> Report:
        """Return what was done, or raise UnitGivenUpError with the report where units were given up."""
        coordinator = self.run.coordinator
        self._witness.look_again()
        if coordinator.written_count == self.plan.unit_count:
            windows = self._extremes.windows()
            write_windows(self.output.store, self.output.group, self.plan, self.options, windows, self._lock.check)
        report = self.report_so_far(Ending(GIVEN_UP if coordinator.given_up else COMPLETE))
        if report.given_up:
            error = UnitGivenUpError(describe_given_up(str(self.output), self.plan, report.given_up))
            error.report = report
            raise error from self.run.executor.error_behind(next(iter(coordinator.given_up.values())))
        return report

    def report_so_far(self, ending: Ending) -> Report:
        """Return what was done until now, also after the output is closed, of a run that has begun."""
        if self._coordinator is None:
            raise RuntimeError(f"the output {self.output} has not begun")
        given_up = {unit: failure.reason for unit, failure in self._coordinator.given_up.items()}
        live_nbytes, mapped = self._coordinator.peak_live_nbytes, self.options.value_range
        return self.tally.report(self.plan, self.array, live_nbytes, given_up, self._history, ending, mapped)

    def _check_reach(self) -> None:
        """Prove that all workers have the store of this process, and not one of their own."""
        try:
            self._placement.check_reach(self._lock.reach())
        except NotSharedError:
            # No worker sees a lock that is gone.
            self._lock.check()
            raise

    def close(self) -> None:
        """Let go of all that is held, and of the output; a second call does nothing."""
        run, self._run = self._run, None
        try:
            if run is not None and not run.coordinator.is_finished:
                # What ended in this moment is worth a line in the ledger. What ends the run matters more.
                with suppress(Exception):
                    run.settle()
            with suppress(OutputInUseError):
                self._end_replacement()
        finally:
            self._opened.close()

    # What the loop records.

    def written(self, receipt: UnitReceipt) -> None:
        """Record a unit that is stored."""
        self._witness.hear(receipt)
        self.tally.add(receipt)
        self._extremes.add(receipt.unit, receipt.extremes)
        self._history.written(receipt)
        if self._ledger is not None:
            self._ledger.add_written(receipt)
        self._callbacks.written(receipt.unit)

    def given_up(self, unit: int) -> None:
        """Record a unit that is given up; it reads as the fill value from now on."""
        self._lock.check()
        self._history.given_up(unit)
        if self._ledger is not None:
            self._ledger.add_given_up(unit, self.plan.array_of_unit(unit))
            self._ledger.flush()
        try:
            self._writer.erase(unit)
        except OutputInUseError:
            raise
        except Exception:
            _log.warning("the objects of unit %d of %s could not be removed", unit, self.output, exc_info=True)

    def flush(self) -> None:
        """Bring the ledger up to date."""
        if self._coordinator is not None:
            self._history.in_flight(self._coordinator.live_nbytes)
        if self._ledger is not None and self._ledger.has_waiting:
            self._lock.check()
            self._ledger.flush()
        if self._is_replacing and self.tally.unit_count:
            self._is_replacing = False
            # It may be millions of files.
            self._finishing = Thread(target=self._finish_replacement, name="tilewright-replaced")
            self._finishing.start()

    def check(self) -> None:
        """Raise OutputInUseError where another run has the output."""
        self._lock.check()

    # How it begins.

    def _create(self, beginning: Beginning) -> Arrays:
        """Create the output, and before it the ledger: an array without one could never be completed."""
        ledger = self.output.ledger
        self.output.check_ledger()
        check_last_holder(self.output, self._lock.taken_from)
        # In memory first: what zarr does not take must not cost what is there.
        header = self._new_header(beginning)
        self._replacement.settle()
        is_there = not self.output.is_vacant or bool(self.output.asides())
        if is_there or (ledger is not None and ledger.files()):
            header = replace(header, replaces=EVERYTHING if self.options.overwrites_foreign else OUTPUT)
            self._is_replacing = self._has_begun_to_replace = True
        if is_there and self.options.overwrites_foreign:
            _log.warning("%s is replaced, with all Zarr groups and arrays in it", self.output)
        self._append_to_ledger(header)
        if is_there and not self.output.asides():
            self._replacement.make_room(self._number, also_zarr=self.options.overwrites_foreign)
        self._lock.check()
        return create_arrays(self.output, beginning.plan, self.options, beginning.provenance)

    def _finish_replacement(self) -> None:
        try:
            self._replacement.finish()
        except Exception:
            _log.warning("what %s has replaced could not be removed", self.output, exc_info=True)

    def _end_replacement(self) -> None:
        """Finish a replacement, or roll it back where the run has failed before a unit was stored."""
        if self._finishing is not None:
            self._finishing.join()
            self._finishing = None
        error = sys.exception()
        has_failed = isinstance(error, Exception) and not isinstance(error, RunStoppedError | OutputInUseError)
        if has_failed and self._is_replacing and self._has_begun_to_replace:
            if self._ledger is not None:
                self._ledger.close()
            self._replacement.roll_back(self._number)

    def _remove_partial_files(self) -> None:
        with suppress(OutputInUseError):
            self._lock.check()
            self.output.remove_partial_files()

    def _new_header(self, beginning: Beginning) -> Header:
        plan, fingerprint, provenance = beginning.plan, beginning.fingerprint, beginning.provenance
        templates = map(array_metadata, template_arrays(plan, self.options))
        arrays = dict(zip([array.name for array in plan.arrays], templates, strict=True))
        return Header(fingerprint, plan, str(self.output), arrays, provenance=provenance)

    def _append_to_ledger(self, header: Header) -> None:
        ledger = self.output.ledger
        if ledger is not None:
            self._ledger = ledger.begin(header, self._number, self._lock.check)
            self._opened.callback(self._ledger.close)

    def _intact_units(self, writer: UnitWriter) -> list[int]:
        """Compare what is stored with what the ledger says, and return the units that are as it says."""
        self.output.remove_partial_files()
        for number, encoder in enumerate(writer.encoders):
            remove_surplus(self.output, writer.plan, number, encoder, self._lock.check)
        records = self.output.ledger.records() if self.output.ledger is not None else Records()
        checker = UnitChecker(writer.plan, dict(enumerate(writer.encoders)))
        faulty = check_units(checker, records, self._placement.client, self._callbacks.checked)
        kept = [unit for unit in range(writer.plan.unit_count) if unit not in faulty]
        self._kept_digest = 0
        for record in records:
            if record.unit not in faulty:
                self._extremes.add(record.unit, record.extremes)
                self._kept_digest = sum_of_digests((self._kept_digest, record.digest))
        return kept
