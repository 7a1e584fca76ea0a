"""Proof that each worker writes to the store that the client sees."""

import uuid

from distributed import Client, Worker
from xxhash import xxh3_128

from tilewright.errors import FinalError
from tilewright.locks.reach import Reach


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
