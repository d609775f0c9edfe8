"""The faults that the package knows, from ``faults.csv``: its one table of them."""

import csv
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

_TABLE = files("nnunet_bridge.formats") / "faults.csv"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a user's data or machine."""

    code: str
    meaning: str
    outcome: str  # of the case, or of the command

    @property
    def family(self) -> str:
        """The letter of the code."""
        return self.code[0]


@cache
def known_faults() -> tuple[Fault, ...]:
    """Return all faults in the order of the reference."""
    rows = csv.DictReader(_TABLE.read_text(encoding="utf-8").splitlines())
    return tuple(Fault(**row) for row in rows)
