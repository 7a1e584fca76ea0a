"""Watch over a cluster: a wait ends with an error where the cluster is gone."""

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic, sleep

from distributed import Client

from tilewright.errors import ClusterGoneError

LOOK_SECONDS = 1.0
"""How often a waiting loop looks whether the cluster is still there."""
RECONNECT_SECONDS = 0.1
"""Pause between two looks for a scheduler that may come back."""
NOTICE_SECONDS = 2.0
"""Time that a client takes to notice a broken connection, at most."""
GRACE_SECONDS = 5.0
"""How long a client may be without its scheduler before the run ends."""


class Watch:
    """Tell whether a cluster is still there.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.

    Raises
    ------
    ClusterGoneError
        If it is closed already.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._away_since: float | None = None
        self.look()

    @property
    def is_connected(self) -> bool:
        """Whether the client has its scheduler now."""
        return bool(self._client.status == "running")

    def look(self) -> None:
        """Raise ClusterGoneError where the scheduler is gone for good, or for too long."""
        if self.is_connected:
            self._away_since = None
            return
        self._away_since = self._away_since or monotonic()
        is_closed = self._client.status in ("closed", "closing") or self._client.scheduler is None
        if is_closed or monotonic() - self._away_since > GRACE_SECONDS:
            raise gone()

    def wait_until_connected(self) -> None:
        """Wait for a scheduler that may come back; a request to it now would wait for longer."""
        while not self.is_connected:
            self.look()
            sleep(RECONNECT_SECONDS)

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Say of a broken connection what it means, where the scheduler is what broke."""
        try:
            yield
        except OSError as error:
            until = monotonic() + NOTICE_SECONDS
            while self.is_connected and monotonic() < until:
                sleep(RECONNECT_SECONDS)
            if not self.is_connected:
                raise gone() from error
            raise


def gone(reason: str = "the connection to its scheduler is closed") -> ClusterGoneError:
    """Return the error of a cluster that went away, or that does not do its work any more."""
    return ClusterGoneError(f"the Dask cluster is gone: {reason}; what was written is complete, the rest is missing")
