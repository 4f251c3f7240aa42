"""A save that is made while the training goes on: one at a time, of before the next update, and none fails silently."""

import threading
from collections.abc import Callable

import pytest

from launch.errors import HostError
from training.checkpoint.saving import Saver


class Half:
    """A copy or its writing, that ends when it is told to."""

    def __init__(self, error: Exception | None = None, held: bool = True):
        self.go, self.error, self.done = threading.Event(), error, False
        if not held:
            self.go.set()

    def __call__(self, *state: object) -> None:
        assert self.go.wait(200)
        if self.error:
            raise self.error
        self.done = True


class Awaited(threading.Event):
    """Lets a copy end once somebody waits for it."""

    def __init__(self, then: Callable[[], None]):
        super().__init__()
        self.then = then

    def wait(self, timeout: float | None = None) -> bool:
        self.then()
        return super().wait(timeout)


def copied() -> None:
    """A copy that takes no time."""


def test_the_training_does_not_wait_for_the_files() -> None:
    saver, write = Saver(), Half()
    saver.begin(copied, write)
    saver.check()
    assert not write.done
    write.go.set()
    saver.finish()
    assert write.done


def test_the_next_save_waits_for_the_one_before() -> None:
    saver, first, second = Saver(), Half(), Half()
    saver.begin(copied, first)
    second.go.set()
    threading.Timer(0.2, first.go.set).start()
    saver.begin(copied, second)
    assert first.done
    saver.finish()
    assert second.done


def ends(saver: Saver) -> list[Callable[[], None]]:
    return [saver.check, saver.finish, lambda: saver.begin(copied, Half(held=False))]


@pytest.mark.parametrize("place", range(3))
def test_a_save_that_failed_ends_the_run_at_the_next_micro_batch_save_or_end(place: int) -> None:
    saver, write = Saver(), Half(HostError("the disk is full"))
    saver.begin(copied, write)
    write.go.set()
    assert saver._thread is not None
    saver._thread.join()
    with pytest.raises(HostError, match="the disk is full"):
        ends(saver)[place]()
    saver.finish()  # told once


def test_the_end_of_a_run_waits_and_tells() -> None:
    write = Half()
    with Saver() as saver:
        saver.begin(copied, write)
        threading.Timer(0.1, write.go.set).start()
    assert write.done
    failing = Half(HostError("the disk is full"))
    failing.go.set()
    with pytest.raises(HostError), Saver() as saver:
        saver.begin(copied, failing)


def test_an_error_of_the_training_is_not_hidden_and_the_save_still_ends() -> None:
    write = Half()
    saver = Saver()
    saver.begin(copied, write)
    threading.Timer(0.1, write.go.set).start()
    with pytest.raises(KeyError), saver:
        raise KeyError("the training's own")
    assert write.done


def test_an_update_waits_for_the_copy_and_not_for_the_files() -> None:
    saver, copy, write = Saver(), Half(), Half()
    saver._copied = Awaited(copy.go.set)
    saver.begin(copy, write)
    assert saver.settle() == saver.waited > 0
    assert (copy.done, write.done) == (True, False)
    assert saver.settle() == 0
    assert saver.waited > 0  # told with the save
    write.go.set()
    saver.finish()
    saver.begin(copied, Half(held=False))
    assert saver.waited == 0
    saver.finish()


def test_what_is_written_is_what_was_copied() -> None:
    trained, written = [1, 2], []
    with Saver() as saver:
        saver.begin(lambda: list(trained), written.extend)
        saver.settle()
        trained[0] = 3
    assert written == [1, 2]


def test_a_copy_that_failed_holds_no_update_up_and_ends_the_run() -> None:
    saver, write = Saver(), Half(held=False)
    saver.begin(Half(HostError("no memory is left"), held=False), write)
    saver.settle()
    with pytest.raises(HostError, match="no memory is left"):
        saver.finish()
    assert not write.done
