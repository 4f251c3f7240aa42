"""Numbers for people."""

from launch.wording import amount, local, plural

GIB = 1024**3


def test_amounts() -> None:
    assert [amount(GIB), amount(GIB // 2), amount(79 * GIB + GIB // 5)] == ["1.0 GiB", "512.0 MiB", "79.2 GiB"]


def test_plurals() -> None:
    assert [plural(0, "row"), plural(1, "row"), plural(1234, "row")] == ["0 rows", "1 row", "1,234 rows"]


def test_a_time_that_no_calendar_has_is_left_out() -> None:
    assert local("%Y", 1_800_000_000.0) == "2027"
    assert [local("%Y", seconds) for seconds in (1e18, 1e300, float("nan"), float("inf"))] == ["", "", "", ""]
