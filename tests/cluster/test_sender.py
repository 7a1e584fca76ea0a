"""Tiles are sent in their order, each once, to the worker of their share, and are kept no longer than it takes."""

import gc
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from distributed import Client

from tilewright.errors import ClusterGoneError
from tilewright.transport.scatter import running_workers
from tilewright.transport.sender import SentTiles, TileSender
from tilewright.transport.watch import Watch

SECONDS = 30.0


def one_share(tile: int, count: int) -> int:
    return 0


def in_turn(tile: int, count: int) -> int:
    return tile % count


class Told(queue.SimpleQueue[Any]):
    """Takes what a sender reports."""

    def tiles(self, count: int) -> list[SentTiles]:
        """Wait until so many tiles are sent."""
        sent: list[SentTiles] = []
        while sum(len(one.tiles) for one in sent) < count:
            sent.append(self.get(timeout=SECONDS))
        return sent


def assert_a_tile_arrives(client: Client, monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Any]) -> None:
    """Send a tile while a function says which workers there are, in place of the scheduler."""
    sync = client.sync

    def answered(function: Any, *arguments: Any, **options: Any) -> Any:
        return ask() if options == {"workers": None} else sync(function, *arguments, **options)

    monkeypatch.setattr(client, "sync", answered)
    told = Told()
    sender = TileSender(client, one_share, told.put)
    sender.send([0], [np.ones(3)])
    (sent,) = told.tiles(1)
    sender.close()
    np.testing.assert_array_equal(sent.futures[0].result(timeout=SECONDS), np.ones(3))


def test_tiles_arrive_in_their_order_in_groups_that_are_not_too_large(
    two_processes: Client,
) -> None:
    arrays = [np.full(100, number, np.uint8) for number in range(30)]
    told = Told()
    sender = TileSender(two_processes, one_share, told.put, at_once_nbytes=350)
    assert sender.is_idle
    sender.send(range(10), arrays[:10])
    sender.send(range(10, 30), arrays[10:])
    sent = told.tiles(30)
    assert [tile for one in sent for tile in one.tiles] == list(range(30))
    assert max(len(one.tiles) for one in sent) <= 4
    for one in sent:
        for tile, array in zip(one.tiles, two_processes.gather(list(one.futures)), strict=True):
            np.testing.assert_array_equal(array, arrays[tile])
    sender.close()
    assert sender.is_idle


def test_each_worker_gets_the_tiles_of_its_share_in_their_order(two_processes: Client) -> None:
    told = Told()
    sender = TileSender(two_processes, in_turn, told.put, at_once_nbytes=350)
    sender.send(range(20), [np.full(100, number, np.uint8) for number in range(20)])
    sent = told.tiles(20)
    sender.close()
    sent_to: dict[str, list[int]] = {}
    for one in sent:
        assert len({tile % 2 for tile in one.tiles}) == 1
        for tile, future in zip(one.tiles, one.futures, strict=True):
            (worker,) = two_processes.who_has([future])[future.key]
            sent_to.setdefault(worker, []).append(tile)
    assert [sent_to[worker] for worker in sorted(sent_to)] == [list(range(0, 20, 2)), list(range(1, 20, 2))]


def test_a_tile_goes_to_another_worker_where_its_own_takes_nothing(
    two_processes: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = sorted(two_processes.nthreads())
    assert_a_tile_arrives(two_processes, monkeypatch, lambda: ["tcp://127.0.0.1:1", one, other])


def test_a_tile_goes_anywhere_while_the_scheduler_does_not_say_who_is_there(
    two_processes: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> None:
        raise OSError("the connection is closed")

    assert_a_tile_arrives(two_processes, monkeypatch, broken)
    assert running_workers(two_processes, Watch(two_processes)) == []


def test_neither_a_tile_nor_its_future_is_kept_when_it_is_sent(two_processes: Client) -> None:
    told = Told()
    sender = TileSender(two_processes, one_share, told.put)
    array = np.ones(1000)
    kept = weakref.ref(array)
    sender.send([0], [array])
    del array
    (sent,) = told.tiles(1)
    key = sent.futures[0].key
    del sent
    # One more, so that the sender has let go of the first, wherever it was.
    sender.send([1], [np.ones(1)])
    second = told.tiles(1)
    gc.collect()
    assert kept() is None
    assert key not in two_processes.futures
    assert second[0].tiles == (1,)
    sender.close()


def test_a_cluster_that_is_gone_is_reported_once_and_nothing_more_is_sent() -> None:
    with Client(processes=False, n_workers=1, dashboard_address="127.0.0.1:0", set_as_default=False) as client:
        told = Told()
        sender = TileSender(client, one_share, told.put)
        sender.send([0], [np.ones(3)])
        assert told.tiles(1)[0].tiles == (0,)
    sender.send([1, 2], [np.ones(3), np.ones(3)])
    assert isinstance(told.get(timeout=SECONDS), ClusterGoneError)
    assert not sender.is_idle
    sender.close()
    assert told.empty()


def test_what_waits_when_it_is_closed_is_not_sent(two_processes: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    calls: list[int] = []

    def slow(arrays: list[Any], **_: Any) -> list[Any]:
        calls.append(len(arrays))
        begun.set()
        assert go_on.wait(SECONDS)
        return []

    monkeypatch.setattr(two_processes, "scatter", slow)
    told, before = Told(), set(threading.enumerate())
    sender = TileSender(two_processes, one_share, told.put, at_once_nbytes=1)
    sender.send([0, 1], [np.ones(1), np.ones(1)])
    assert begun.wait(SECONDS)
    sender.close(seconds=0.01)
    (thread,) = (one for one in set(threading.enumerate()) - before if one.name == "tilewright-sender")
    go_on.set()
    thread.join(SECONDS)
    assert calls == [1]
    assert told.empty()
