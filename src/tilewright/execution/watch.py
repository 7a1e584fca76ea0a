"""Nobody waits for a cluster that is gone."""

from distributed import Client

from tilewright.errors import ClusterGoneError


def raise_if_gone(client: Client) -> None:
    """Raise ClusterGoneError where the client has lost its scheduler for good."""
    if client.status in ("closed", "closing") or client.scheduler is None:
        raise ClusterGoneError(
            "the connection to the Dask scheduler is closed; what is written is complete, the rest is missing"
        )
