"""Connection to a Dask cluster, after a quick check of the scheduler: a wrong address costs one line, in seconds."""

import asyncio
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilewright.stopping import StopRequest

if TYPE_CHECKING:
    from distributed import Client

ANSWER_SECONDS = 5.0
"""Timeout for the answer of a scheduler."""


@contextmanager
def connected(scheduler: str | None, stop: StopRequest) -> "Iterator[Client | None]":
    """Connect to the cluster of an address or of a scheduler file.

    Raises
    ------
    click.ClickException
        If there is no such cluster.
    RunStoppedError
        If a signal comes first.
    """
    if scheduler is None:
        yield None
        return
    is_address = re.search(r"://|:\d+$", scheduler) is not None
    if not is_address and not Path(scheduler).is_file():
        # Dask waits for a missing file.
        raise click.BadParameter(
            f"{scheduler!r} is neither an address such as tcp://host:8786, nor a file that exists",
            param_hint="'--scheduler'",
        )
    address = scheduler if is_address else _address_in(Path(scheduler))
    stop.wait_for(lambda: _check_scheduler(address))

    def connect() -> "Client":
        from distributed import Client  # noqa: PLC0415

        return Client(address, set_as_default=False)

    with stop.wait_for(connect) as client:
        if not client.nthreads():
            click.echo(f"The cluster {scheduler} has no workers yet; waiting for one.", err=True)
        yield client


def _address_in(file: Path) -> str:
    """Return the address in a scheduler file."""
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError):
        content = None
    address = content.get("address") if isinstance(content, dict) else None
    if not isinstance(address, str):
        raise click.ClickException(
            f"{file} is no scheduler file: it has no address; pass the file of `dask scheduler --scheduler-file`"
        )
    return address


def _check_scheduler(address: str) -> None:
    """Raise ClickException where no scheduler answers at an address."""
    try:
        kind = asyncio.run(_kind_at(address))
    except TimeoutError:
        reason = f"no scheduler answers within {ANSWER_SECONDS:.0f} seconds"
    except Exception as error:
        # Each protocol has its own errors.
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
    else:
        if kind == "Scheduler":
            return
        reason = f"a {kind} answers there, and no scheduler"
    raise click.ClickException(f"the cluster {address} cannot be used: {reason}; check --scheduler")


async def _kind_at(address: str) -> Any:
    """Return the type of the server at an address."""
    from distributed.core import rpc  # noqa: PLC0415
    from distributed.security import Security  # noqa: PLC0415

    connection_args = Security().get_connection_args("client")
    server = rpc(address, timeout=ANSWER_SECONDS, connection_args=connection_args)
    try:
        identity = await asyncio.wait_for(server.identity(), ANSWER_SECONDS)
    finally:
        await server.close_rpc()
    return identity["type"]
