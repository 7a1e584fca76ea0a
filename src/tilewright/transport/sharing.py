"""What the tasks of a run need travels once to each worker, also to one that joins later, until the run ends."""

import logging
import uuid
from contextlib import suppress
from time import sleep
from typing import Any

from distributed import Client, Worker, WorkerPlugin

from tilewright.errors import ClusterGoneError, WorkGoneError
from tilewright.transport.watch import RECONNECT_SECONDS, Watch, gone

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
