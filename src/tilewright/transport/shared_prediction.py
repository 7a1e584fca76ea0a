"""The model and the source of a run on worker processes: sent once, probed there."""

from distributed import CancelledError, Client, KilledWorker

from tilewright.errors import UnitGivenUpError, WorkGoneError
from tilewright.identity.values import name_of
from tilewright.model.tile_prediction import Probe, TilePrediction
from tilewright.plan import WritePlan
from tilewright.transport.sendable import failure_of_journey, sendable_errors
from tilewright.transport.sharing import Shared, shared_value
from tilewright.transport.watch import Watch


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


@sendable_errors
def _probe(name: str, plan: WritePlan) -> Probe:
    prediction: TilePrediction = shared_value(name)
    return prediction.probe(plan)
