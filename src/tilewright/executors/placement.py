"""Which cluster a run uses: the one that is given, the current one, or one of its own, which it closes again."""

from distributed import Client

from tilewright.coordinator import UnitPlan
from tilewright.errors import NotSharedError
from tilewright.executors.executor import Executor
from tilewright.executors.in_process import InProcessExecutor
from tilewright.executors.remote import RemoteExecutor
from tilewright.executors.work import TileWriter, Work
from tilewright.locks.reach import Reach
from tilewright.model.tile_prediction import Probe, TilePrediction
from tilewright.plan import WritePlan
from tilewright.stopping import StopRequest
from tilewright.transport.clients import memory_for_tiles, shares_memory
from tilewright.transport.shared_prediction import SharedPrediction
from tilewright.transport.shared_store import show_on_workers
from tilewright.transport.watch import Watch


class Placement:
    """Where the work of one run is carried out.

    Parameters
    ----------
    client : distributed.Client
        A client of the cluster.
    prediction : TilePrediction, optional
        How tiles are predicted; None where they are handed over.
    stop : StopRequest, optional
        What may ask the run to stop while the model is loaded and probed.
    """

    def __init__(
        self, client: Client, prediction: TilePrediction | None = None, stop: StopRequest | None = None
    ) -> None:
        Watch(client)
        self._stop = stop or StopRequest()
        self._client = client
        self._prediction = prediction
        self._is_here = shares_memory(client)
        self._shared: SharedPrediction | None = None
        self._reach: Reach | None = None

    def __enter__(self) -> "Placement":
        if self._prediction is not None and not self._is_here:
            prediction = self._prediction
            self._shared = self._stop.wait_for(lambda: SharedPrediction(self._client, prediction))
        return self

    def __exit__(self, *details: object) -> None:
        if self._shared is not None:
            self._shared.close()
        elif self._prediction is not None:
            self._prediction.predictor.release()

    def probe(self, plan: WritePlan) -> Probe:
        """Predict the first tile, and return what it says of the model."""
        if self._shared is not None:
            # Which worker will be asked for the tile is not known.
            shared = self._shared
            return self._stop.wait_for(lambda: shared.probe(plan))
        if self._prediction is None:
            raise RuntimeError("there is no model to probe: tiles are handed over")
        prediction = self._prediction
        return self._stop.wait_for(lambda: prediction.probe(plan, for_use=True))

    def check_reach(self, reach: Reach) -> None:
        """Prove that all workers read and write the store of an output that this process sees.

        Raises
        ------
        NotSharedError
            If one of them does not.
        """
        if self._is_here:
            return
        self._reach = reach
        try:
            shown = self._stop.wait_for(lambda: show_on_workers(self._client, reach))
        except TypeError as error:
            raise NotSharedError(
                f"the output {reach.output} is not shared: its store cannot be sent to another process ({error}); "
                "choose a folder, or an object store, that all workers share"
            ) from error
        for worker, token in shown.items():
            if not reach.take(token):
                raise reach.unseen(worker)

    def executor(self, plan: UnitPlan, writer: TileWriter) -> Executor:
        """Return an executor for one output."""
        work = Work(plan, writer, self._prediction, self._reach)
        if self._is_here:
            return InProcessExecutor(self._client, work)
        return RemoteExecutor(self._client, work, self._shared)

    @property
    def is_here(self) -> bool:
        """Whether the workers are threads of this process."""
        return self._is_here

    @property
    def client(self) -> Client:
        """A client of the cluster."""
        return self._client

    @property
    def memory_nbytes(self) -> int:
        """Default bytes that the tiles may take."""
        return memory_for_tiles(self._client) or 2**63
