"""How many examples a law is tried on."""

from hypothesis import settings

DEFAULT = 100


def examples(number):
    """Return settings of so many examples; fewer at the profile quick, more at long."""
    share = settings().max_examples / DEFAULT
    return settings(max_examples=max(5, round(number * share)))
