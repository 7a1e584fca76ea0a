"""What the tasks of a run need travels once to each worker, also to one that joins later, until the run ends."""

import logging
import pickle
import traceback
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from time import sleep
from typing import Any, ParamSpec, TypeVar

import cloudpickle
import tblib.pickling_support
from distributed import CancelledError, Client, KilledWorker, Worker, WorkerPlugin
from xxhash import xxh3_128

from tilewright.errors import ClusterGoneError, FinalError, UnitGivenUpError, WorkGoneError
from tilewright.execution.watch import RECONNECT_SECONDS, Watch, gone
from tilewright.execution.work import Probe, TilePrediction
from tilewright.plan import WritePlan
from tilewright.storage.reach import Reach
from tilewright.storage.value_identity import name_of

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
REGISTRATIONS = 20
"""How often a value is sent to the workers where some of them die meanwhile, or forget it."""

_log = logging.getLogger(__name__)
_shared: dict[str, Any] = {}
"""On a worker: what clients have shared with it."""


def shared_value(name: str) -> Any:
    """Return, on a worker, what a client has shared with it.

    Raises
    ------
    WorkGoneError
        If the worker does not have it.
    """
    try:
        return _shared[name]
    except KeyError:
        raise WorkGoneError(f"this worker does not have {name}") from None


class _SharePlugin(WorkerPlugin):
    """Bring a value to every worker, once, also to those that join later."""

    # Workers that a registration did not reach, since another one died meanwhile, are reached by the next one.
    idempotent = False

    def __init__(self, value: Any) -> None:
        self.name = f"tilewright-{uuid.uuid4().hex}"
        self.value = value

    def setup(self, worker: Worker) -> None:
        _shared[self.name] = self.value

    def teardown(self, worker: Worker) -> None:
        _shared.pop(self.name, None)


class Shared:
    """A value that every worker of a cluster holds, by a name that tasks carry.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    value : object
        What to share. It is pickled.
    """

    def __init__(self, client: Client, value: Any) -> None:
        self._client = client
        self._plugin = _SharePlugin(value)
        self._renewals = 0
        self.name = self._plugin.name
        self._register()

    def renew(self) -> None:
        """Bring the value to all workers again, where a scheduler has come back without it.

        Raises
        ------
        ClusterGoneError
            If that was needed too often.
        """
        self._renewals += 1
        if self._renewals > REGISTRATIONS:
            raise gone("its workers lose the work of this run again and again")
        _log.warning("the workers do not have the work of this run, which is sent to them again")
        self._register()

    def _register(self) -> None:
        """Bring the value to all workers; where one of them dies meanwhile, to the others."""
        watch = Watch(self._client)
        for attempt in range(1, REGISTRATIONS + 1):
            watch.wait_until_connected()
            try:
                with watch.talking():
                    self._client.register_plugin(self._plugin)
            except OSError as error:
                if attempt == REGISTRATIONS or isinstance(error, ClusterGoneError):
                    raise
                sleep(RECONNECT_SECONDS)
            except Exception as error:
                # It was not sent, or not understood where it came.
                if (reason := self._unsendable()) is None:
                    raise
                raise TypeError(reason) from error
            else:
                return

    def _unsendable(self) -> str | None:
        """Return which part of the value cannot be sent to another process, and what to do; None where all can."""
        return None

    def close(self) -> None:
        """Let the workers forget the value."""
        if self._client.status == "running":
            # A cluster that is going away forgets it anyway, and one that was restarted has forgotten it.
            with suppress(Exception):
                self._client.unregister_worker_plugin(self.name)


def failure_of_journey(value: Any) -> str:
    """Return why a value cannot be sent to another process; empty where it can."""
    try:
        pickle.loads(cloudpickle.dumps(value))
    except Exception as error:
        return f"{type(error).__name__}: {str(error).partition(chr(10))[0]:.200}"
    return ""


class SharedPrediction(Shared):
    """The source and the model of a run, on the workers."""

    def __init__(self, client: Client, prediction: TilePrediction) -> None:
        self._prediction = prediction
        super().__init__(client, prediction)

    def _unsendable(self) -> str | None:
        model, source = self._prediction.predictor.model, self._prediction.source
        if reason := failure_of_journey(model):
            return (
                f"the model {name_of(model)} cannot be sent to the processes of the cluster ({reason}); pass a "
                "function without arguments that makes or loads the model: it is called once in each of them"
            )
        if reason := failure_of_journey(source):
            return (
                f"the source {source.name} cannot be sent to the processes of the cluster ({reason}); pass a path, or "
                "an array of Zarr or Dask"
            )
        return None

    def probe(self, plan: WritePlan) -> Probe:
        """Predict the first tile on a worker, and return what it says of the model."""
        try:
            while True:
                try:
                    result: Probe = self._client.submit(_probe, self.name, plan, pure=False).result()
                    break
                except (CancelledError, WorkGoneError):
                    Watch(self._client).wait_until_connected()
                    self.renew()
        except KilledWorker as error:
            raise UnitGivenUpError(
                f"each worker died on which the model was to be loaded and to predict the first tile: {error}"
            ) from error
        return result


def sendable_errors(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Let a function that runs on a worker raise errors that arrive as what they are.

    Where what has caused an error cannot be sent, it is left out, and its text is a note.
    """

    @wraps(function)
    def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            # As Dask sends errors: with what has caused them.
            tblib.pickling_support.install(*_chain_of(error))
            if not failure_of_journey(error):
                raise
            note = "".join(traceback.format_exception(error))
            error.__cause__ = error.__context__ = None
            if not failure_of_journey(error):
                error.add_note(note)
                raise error from None
            text = f"{name_of(type(error))}: {error}"
        unlike = RuntimeError(text)
        unlike.add_note(note)
        raise unlike

    return call


def _chain_of(error: BaseException | None) -> Iterator[BaseException]:
    """Iterate over an error, what has caused it, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


@sendable_errors
def _probe(name: str, plan: WritePlan) -> Probe:
    prediction: TilePrediction = shared_value(name)
    return prediction.probe(plan)


def show_on_workers(client: Client, reach: Reach) -> dict[str, str]:
    """Let each worker of a cluster put something into the store of an output, and return what, by its address.

    Raises
    ------
    NotSharedError
        If a worker does not see what the client has put there.
    TypeError
        If the store cannot be sent.
    """
    answers = client.run(_show, reach, uuid.uuid4().hex, on_error="return")
    for answer in answers.values():
        if isinstance(answer, FinalError | TypeError):
            raise answer
    # A worker that has died says nothing; another one that comes looks before its first task.
    return {worker: answer for worker, answer in answers.items() if isinstance(answer, str)}


def _show(reach: Reach, run: str, dask_worker: Worker) -> str:
    token = xxh3_128(f"{run} {dask_worker.address}".encode()).hexdigest()
    reach.show(token)
    return token
