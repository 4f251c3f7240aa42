"""What the collector does around imports."""

import gc
import weakref

import pytest

from training.imports import importing


class Node:
    """A cycle: reference counts alone never free it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def thawed() -> object:
    gc.unfreeze()
    yield
    gc.unfreeze()


def test_nothing_is_collected_meanwhile_and_what_is_made_is_not_looked_at_again() -> None:
    before = gc.get_freeze_count()
    with importing():
        assert not gc.isenabled()
        made = [Node() for _ in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() >= before + 1000
    seen = weakref.ref(made[0])
    made.clear()
    gc.collect()
    assert seen() is not None


def test_an_import_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(ModuleNotFoundError), importing():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
    seen = weakref.ref(Node())
    gc.collect()
    assert seen() is None
