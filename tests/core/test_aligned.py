"""Tables as text: words to the left, numbers to the right."""

from nnunet_bridge.core.aligned import aligned


def test_a_column_is_one_of_numbers_only_if_every_row_is():
    rows = [["1", "x", "-"], ["10", "2", "1e-3"], ["-", "30", "nan"]]

    assert aligned(["a", "long", "figure"], rows).splitlines() == [
        " a  long  figure",
        " 1  x          -",
        "10  2       1e-3",
        " -  30       nan",
    ]
