"""What the collector does around imports, and which packages are there for them."""

import gc
import importlib.util
import sys
import weakref
from pathlib import Path

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


def test_a_package_that_a_run_has_no_use_for_is_not_there_unless_it_was_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("seldom_used", "used_before"):
        (tmp_path / f"{name}.py").write_text("")
        monkeypatch.setitem(sys.modules, name, None)  # so that the test leaves none behind
        del sys.modules[name]
        assert importlib.util.find_spec(name) is not None
    import used_before

    with importing(["seldom_used", "used_before"]):
        assert importlib.util.find_spec("seldom_used") is None
        with pytest.raises(ModuleNotFoundError):
            import seldom_used  # noqa: F401
        assert sys.modules["used_before"] is used_before
    assert importlib.util.find_spec("seldom_used") is None  # for good: DeepSpeed would be imported in the first save
