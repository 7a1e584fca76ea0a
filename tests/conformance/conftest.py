"""Each strategy, on each kind of client."""

from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client
from tests.conformance.strategy_cases import CLIENTS, KINDS, Kind, Make
from tests.support import running_clusters


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture(params=CLIENTS)
def client_name(request: pytest.FixtureRequest) -> str | None:
    return request.param


@pytest.fixture
def client(client_name: str | None, request: pytest.FixtureRequest) -> Iterator[Client | None]:
    """No cluster, one in this process, one of other processes; afterwards it is of use, and no other one is open."""
    client = None if client_name is None else request.getfixturevalue(client_name)
    clusters = running_clusters()
    yield client
    assert running_clusters() == clusters
    assert client is None or client.submit(sum, (1, 2), pure=False).result(timeout=20) == 3


@pytest.fixture
def make(kind: Kind, client: Client | None) -> Iterator[Make]:
    made: list[Any] = []

    def make(**options: Any) -> Any:
        made.append(kind.make(client, **options))
        return made[-1]

    yield make
    for strategy in made:
        strategy.abort()
