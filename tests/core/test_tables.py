"""Tables of plain text."""

from pipeline.core.tables import table


def test_table() -> None:
    assert table([("a", "size"), ("bcd", 1234567), ("e", 5)]) == "a         size\nbcd  1,234,567\ne            5"


def test_a_column_with_any_number_is_set_to_the_right_and_floats_have_one_decimal() -> None:
    rows = [("stage", "seconds", "note"), ("a", 1234.56, ""), ("b", "", "x")]
    assert table(rows) == "stage  seconds  note\na      1,234.6\nb               x"
