"""Threads of several jobs: so many at a time, ended by a stop, and stopped by what one of them raises."""

from __future__ import annotations

import threading

import pytest

from diminuendo.services.coordinator.crew import Crew
from diminuendo.services.coordinator.stopping import Stop


def test_no_more_than_there_is_room_for() -> None:
    stop = Stop()
    crew, gates = Crew(2, stop), [threading.Event() for _ in range(3)]
    for name, gate in zip("ab", gates, strict=False):
        assert crew.wait_for_room()
        crew.start(name, gate.wait)
    assert sorted(crew.holding) == ["a", "b"]
    waited: list[bool] = []
    waiting = threading.Thread(target=lambda: waited.append(crew.wait_for_room()))
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    gates[0].set()
    waiting.join(5)
    assert waited == [True]
    gates[1].set()
    crew.join()
    assert crew.holding == ()


def test_a_stop_ends_the_wait() -> None:
    stop, gate = Stop(), threading.Event()
    crew = Crew(1, stop)
    crew.start("a", gate.wait)
    waited: list[bool] = []
    waiting = threading.Thread(target=lambda: waited.append(crew.wait_for_room()))
    waiting.start()
    stop.request()
    waiting.join(5)
    assert waited == [False]
    gate.set()
    crew.join()


def test_what_a_job_raises_stops_all_and_is_raised() -> None:
    stop = Stop()
    crew = Crew(2, stop)

    def breaks() -> None:
        raise KeyError("lost")

    crew.start("good", stop.event.wait)
    crew.start("bad", breaks)
    with pytest.raises(KeyError, match="lost"):
        crew.join()
    assert stop.event.is_set()
    assert not crew.wait_for_room()
