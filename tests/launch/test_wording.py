"""Numbers for people."""

from launch.wording import amount, plural

GIB = 1024**3


def test_amounts() -> None:
    assert [amount(GIB), amount(GIB // 2), amount(79 * GIB + GIB // 5)] == ["1.0 GiB", "512.0 MiB", "79.2 GiB"]


def test_plurals() -> None:
    assert [plural(0, "row"), plural(1, "row"), plural(1234, "row")] == ["0 rows", "1 row", "1,234 rows"]
