"""One schedule is played: clients run, what is to happen to them happens, and each must end as that explains."""

import errno
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.faults.cases import Model
from benchmarks.faults.clients import CLIENT_SECONDS, Job, RunningClient, send_signal
from benchmarks.faults.cluster import Cluster
from benchmarks.faults.logs import line_count
from benchmarks.faults.outcome import _WHOLE, HungError, InvariantError, Outcome
from benchmarks.faults.reference import Reference
from benchmarks.faults.schedule import (
    CLIENT_SIGNALS,
    LOSE_LOCK,
    LOSE_LOCK_TO_OVERWRITE,
    OTHER_CLIENT,
    OVERWRITE,
    REFUSED_CLIENT,
    WORKERS,
    Fault,
    Round,
    Schedule,
)
from benchmarks.faults.store import StoreFaults
from benchmarks.faults.stored_output import StoredOutput

SCHEDULE_SECONDS = 240.0
"""A schedule that takes longer hangs."""
POLL_SECONDS = 0.005
RETRY_SECONDS = 0.05


class Player:
    """Play one schedule, and check what is left."""

    def __init__(self, schedule: Schedule, cluster: Cluster, folder: Path, source: Path, reference: Reference) -> None:
        self._schedule = schedule
        self._cluster = cluster
        self._folder = folder
        self._source = source
        self._locks_lost = 0
        self._killed = 0
        self._until = monotonic() + SCHEDULE_SECONDS
        self.outcome = Outcome(units=reference.plan.unit_count)
        self._stored = StoredOutput(schedule, folder, reference, self.outcome)

    def play(self) -> Outcome:
        start = monotonic()
        StoreFaults().save(self._folder)
        try:
            self._cluster.be_ready(self._schedule.allowed_failures)
            is_complete = False
            for index, round_ in enumerate(self._schedule.rounds):
                if round_.waits_for_old_tasks and index > 0:
                    self._rest()
                # Of another output nothing is compared later.
                damages = sum(self._stored.damage(what) for what in round_.damages) if self._stored.is_ours else 0
                if is_complete and not damages and round_.if_exists != OVERWRITE and self._stored.other is None:
                    continue
                is_complete = self._play_other(round_) if round_.is_other else self._play(round_)
            self._complete()
            self._rest()
            self._stored.check_end()
        except InvariantError as error:
            self.outcome.problems.append(str(error))
            self.outcome.hung += isinstance(error, HungError)
        self._stored.count()
        self.outcome.seconds = monotonic() - start
        return self.outcome

    def _complete(self) -> None:
        """Play a round without faults. Where the output is complete already, nothing may be written."""
        if not self._play(Round()):
            raise InvariantError("a round without faults did not complete the output")

    def _play(self, round_: Round) -> bool:
        """Play a round, and tell whether the output is complete then."""
        round_.store.save(self._folder)
        intact = self._stored.intact_units()
        if round_.if_exists == OVERWRITE:
            # All of it is written again.
            intact = set()
            self._stored.forget_records()
            self.outcome.injected[OVERWRITE] += 1
        before = line_count(self._folder / "sets")
        deaths_by_model = self._deaths_by_model
        object_count = sum(unit not in intact for unit in self._stored.unit_of.values())
        clients = self._run_clients(round_, object_count)
        deaths = self._killed + self._deaths_by_model - deaths_by_model
        results = [client.result() for client in clients]
        if any(client.job.if_exists == OVERWRITE for client in clients):
            intact = set()
        for client, result in zip(clients, results, strict=True):
            if result["ended"] == "ResumeError" and self._stored.other is not None:
                self._stored.check_refused_resume(result)
                return self._play(replace(round_, if_exists=OVERWRITE, faults=()))
            self._judge(client, result, round_, deaths, is_alone=len(clients) == 1)
        self._stored.interruptions += deaths + self._locks_lost
        self._stored.interruptions += sum(result["ended"] not in _WHOLE for result in results)
        self._stored.check_ledger(intact, may_repeat=len({client.job.if_exists for client in clients}) > 1)
        self._stored.check_recorded(before, len(clients))
        return any(result["ended"] == "complete" for result in results)

    def _play_other(self, round_: Round) -> bool:
        """Leave an output of another model, whole or half-written; it is not complete in any case."""
        round_.store.save(self._folder)
        clients = self._run_clients(round_, len(self._stored.unit_of))
        for client in clients:
            self._judge(client, client.result(), round_, deaths=0, is_alone=True)
        self._rest()
        if self._stored.is_ours:
            # It did not come to that; of the units that are stored none was touched.
            self._stored.check_ledger(set())
            return False
        self._stored.begin_anew()
        return False

    def _run_clients(self, round_: Round, object_count: int) -> list["RunningClient"]:
        """Run a client until it ends, or is ended, and let what is to happen happen."""
        self._killed = self._locks_lost = 0
        clients = [self._start_client(round_)]
        stored_before = line_count(self._folder / "sets")
        waiting = list(round_.faults)
        due: list[tuple[float, Fault]] = []
        start = monotonic()
        while alive := [client for client in clients if client.process.is_alive()]:
            connection.wait([client.process.sentinel for client in alive], POLL_SECONDS)
            now = monotonic()
            share = (line_count(self._folder / "sets") - stored_before) / max(1, object_count)
            for fault in [fault for fault in waiting if fault.after_share is None or share >= fault.after_share]:
                waiting.remove(fault)
                due.append(((start if fault.after_share is None else now) + fault.after_seconds, fault))
            for entry in [entry for entry in due if entry[0] <= now]:
                due.remove(entry)
                if not self._let_happen(entry[1], round_, clients):
                    # A worker that is not up yet, say.
                    due.append((now + RETRY_SECONDS, entry[1]))
            if self._cluster.dead_count == WORKERS:
                # No client can do anything about that.
                for client in alive:
                    client.signal(signal.SIGKILL)
                self._cluster.restart()
            if now - start > CLIENT_SECONDS or now > self._until:
                raise HungError(self._stacks_of(alive))
        return clients

    def _start_client(self, round_: Round) -> "RunningClient":
        """Start a client, after a look at what it must not destroy."""
        self.outcome.clients += 1
        folder, schedule = str(self._folder), self._schedule
        kills = round_.kills_its_process and not self._deaths_by_model
        model = Model(folder, schedule.delay_seconds, round_.error_rate, kills, offset=7 if round_.is_other else 0)
        job = Job(
            schedule.case.other if round_.is_other else schedule.case,
            str(self._source),
            folder,
            self.outcome.clients,
            self._cluster.address,
            model,
            schedule.through_zarr,
            round_.grace_seconds,
            round_.if_exists,
        )
        return RunningClient(job)

    def _let_happen(self, fault: Fault, round_: Round, clients: list["RunningClient"]) -> bool:
        """Let a fault happen, and tell, and count, whether it hit something."""
        count = WORKERS if "both" in fault.what else 1
        if fault.what == REFUSED_CLIENT and len(clients) > 1:
            # Which of them has the lock, it cannot be told.
            return True
        if fault.what == OTHER_CLIENT:
            clients.append(self._start_client(round_))
            hit = True
        elif fault.what == REFUSED_CLIENT:
            hit = self._refuse(fault, round_, clients[0])
        elif fault.what in (LOSE_LOCK, LOSE_LOCK_TO_OVERWRITE):
            hit = (self._stored.ledger / "lock").exists()
            if hit:
                (self._stored.ledger / "lock").unlink(missing_ok=True)
                self._locks_lost += 1
                overwrites = fault.what == LOSE_LOCK_TO_OVERWRITE
                if overwrites:
                    self._stored.forget_records()
                clients.append(self._start_client(replace(round_, if_exists=OVERWRITE if overwrites else "resume")))
        elif fault.what in CLIENT_SIGNALS:
            first, *others = CLIENT_SIGNALS[fault.what]
            hit = clients[0].signal(first)
            for number in others:
                clients[0].process.join(fault.seconds / 4)
                clients[0].signal(number)
        elif fault.what.startswith("kill"):
            hit = self._cluster.kill(count, fault.which)
            self._killed += hit
        elif fault.what.startswith("stop"):
            hit = self._cluster.stop(fault.which, fault.seconds)
        else:
            hit = self._cluster.pause(count, fault.which, fault.seconds)
        if hit:
            self.outcome.injected[fault.what] += 1
        return bool(hit)

    def _lock_text(self) -> str:
        try:
            return (self._stored.ledger / "lock").read_text()
        except FileNotFoundError:
            return ""

    def _refuse(self, fault: Fault, round_: Round, first: "RunningClient") -> bool:
        """Start a client while another one holds the lock, and is stopped so that it cannot end; tell whether it was.

        Raises
        ------
        InvariantError
            If the second one is not refused, or changes what is stored.
        """
        if not first.pause():
            return False
        try:
            if f'"process": {first.process.pid},' not in self._lock_text():
                return False
            second = self._start_client(replace(round_, if_exists=("resume", OVERWRITE)[fault.which]))
            second.process.join(CLIENT_SECONDS)
            if second.process.is_alive():
                raise HungError(self._stacks_of([second]))
            if (result := second.result())["ended"] != "OutputInUseError":
                raise InvariantError(f"a client came to an output that is in use, and ended with {result}")
            return True
        finally:
            first.go_on()

    @property
    def _deaths_by_model(self) -> int:
        return int((self._folder / "killed-by-model").exists())

    def _judge(
        self, client: "RunningClient", result: dict[str, Any], round_: Round, deaths: int, *, is_alone: bool
    ) -> None:
        """Raise InvariantError where a client ended in a way that nothing that was done to it explains."""
        ended, signals = result["ended"], client.signals
        few_failures = self._schedule.allowed_failures < 3 and deaths > 0
        explained = {
            "complete": True,
            "UnitGivenUpError": round_.injects_errors or few_failures,
            "KilledWorker": few_failures,
            "InjectedModelError": round_.error_rate > 0,
            "InjectedStoreError": round_.store.injects_errors,
            "OSError": round_.store.injects_errors and result.get("errno") == errno.EIO,
            # Tasks of a dead run may still write, which a store of one's own would not notice.
            "OutputInUseError": not is_alone or (round_.if_exists == OVERWRITE and self._schedule.through_zarr),
            "RunStoppedError": bool(signals),
            "KeyboardInterrupt": signals[signal.SIGINT] > 0,
            # The signal came when the process was about to end, or the second one while it ended by the first.
            "exit 1": signals[signal.SIGINT] > 0,
        } | {f"exit {-number}": True for number in signals}
        if not explained.get(ended, False):
            raise InvariantError(f"a client ended with {ended}: {result.get('text', '')}\n{client.log()}")

    def _rest(self) -> None:
        try:
            self._cluster.rest()
        except TimeoutError as error:
            raise HungError(f"{error}\n{self._cluster.show_stacks()}") from None

    def _stacks_of(self, clients: Sequence["RunningClient"]) -> str:
        """End clients that do not end, and return where they and the workers were."""
        for client in clients:
            send_signal(client.process.pid or 0, signal.SIGUSR1)
        stacks = [self._cluster.show_stacks()]
        for client in clients:
            stacks.append(f"--- client {client.job.number}\n{client.job.path('stack').read_text()}\n{client.log()}")
            client.process.kill()
            client.process.join()
        return "\n".join(["a client hangs", *reversed(stacks)])
