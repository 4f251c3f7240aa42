"""A save that is written while the training goes on: one at a time, and none that fails is forgotten."""

import threading
from collections.abc import Callable

import pytest

from launch.errors import HostError
from training.saving import Saver


class Write:
    """The writing half of a save, that ends when it is told to."""

    def __init__(self, error: Exception | None = None):
        self.go, self.error, self.done = threading.Event(), error, False

    def __call__(self) -> None:
        assert self.go.wait(10)
        if self.error:
            raise self.error
        self.done = True


def test_the_training_does_not_wait_for_the_files() -> None:
    saver, write = Saver(), Write()
    saver.begin(write)
    saver.check()
    assert not write.done
    write.go.set()
    saver.finish()
    assert write.done


def test_the_next_save_waits_for_the_one_before() -> None:
    saver, first, second = Saver(), Write(), Write()
    saver.begin(first)
    second.go.set()
    threading.Timer(0.2, first.go.set).start()
    saver.begin(second)
    assert first.done
    saver.finish()
    assert second.done


def ends(saver: Saver) -> list[Callable[[], None]]:
    return [saver.check, saver.finish, lambda: saver.begin(lambda: None)]


@pytest.mark.parametrize("place", range(3))
def test_a_save_that_failed_ends_the_run_at_the_next_micro_batch_save_or_end(place: int) -> None:
    saver, write = Saver(), Write(HostError("the disk is full"))
    saver.begin(write)
    write.go.set()
    assert saver._thread is not None
    saver._thread.join()
    with pytest.raises(HostError, match="the disk is full"):
        ends(saver)[place]()
    saver.finish()  # told once


def test_the_end_of_a_run_waits_and_tells() -> None:
    write = Write()
    with Saver() as saver:
        saver.begin(write)
        threading.Timer(0.1, write.go.set).start()
    assert write.done
    failing = Write(HostError("the disk is full"))
    failing.go.set()
    with pytest.raises(HostError), Saver() as saver:
        saver.begin(failing)


def test_an_error_of_the_training_is_not_hidden_and_the_save_still_ends() -> None:
    write = Write()
    saver = Saver()
    saver.begin(write)
    threading.Timer(0.1, write.go.set).start()
    with pytest.raises(KeyError), saver:
        raise KeyError("the training's own")
    assert write.done
