"""A run as plain lines."""

from dataclasses import replace

from launch.watching.lines import changes, standing
from tests.launch.watching.views import status, view


def test_where_a_run_is() -> None:
    assert standing(view()) == "demo: running, attempt 1, step 500/1000, loss 1.250, 2.0 h left"
    waits = status(state="waiting", why="Priority", attempt=0, step=None, loss=None, eta_seconds=None)
    assert standing(replace(view(), status=waits)) == "demo: waiting: Priority"


def test_at_first_and_whenever_the_state_changes() -> None:
    first = view()
    assert changes(None, first) == [standing(first)]
    assert changes(first, replace(first, status=status(step=510))) == []
    failed = replace(first, status=status(state="failed", why="rank 1 was killed", eta_seconds=None))
    assert changes(first, failed) == ["demo: failed: rank 1 was killed, attempt 1, step 500/1000, loss 1.250"]
    again = replace(first, status=status(attempt=2))
    assert changes(first, again) == [standing(again)]


def test_what_is_new_is_told_and_trouble_once() -> None:
    first = view()
    silent = replace(first, troubles=("rank 3 on n0: no sign of life for 12 s",), fresh=("step 5/10: loss 1.0",))
    assert changes(first, silent) == ["step 5/10: loss 1.0", "! rank 3 on n0: no sign of life for 12 s"]
    later = replace(first, troubles=("rank 3 on n0: no sign of life for 13 s",))
    assert changes(silent, later) == []


def test_no_line_moves_the_cursor() -> None:
    assert changes(view(), view(fresh=("\x1b[2J\n",))) == ["\\x1b[2J\\n"]
