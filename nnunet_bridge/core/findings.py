"""Findings about a case: a code, a severity and one sentence.

The codes are the ids of `docs/reference/faults.md`. A case is as good as its worst
finding; a case without any is accepted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from nnunet_bridge.core.errors import BridgeError

_CODE = re.compile(r"[A-Z]\d\d")


class Outcome(IntEnum):
    """What happens to a case, from best to worst."""

    ACCEPTED = 0
    FIXED = 1
    WARNED = 2
    REFUSED = 3

    def __str__(self) -> str:
        """Return the word that the command line and the manifest use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a case."""

    code: str  # id of the fault, such as ``"G03"``; empty for a remark without one
    outcome: Outcome
    message: str  # one sentence: what, where, and what to do

    def __post_init__(self) -> None:
        """Refuse a code that is no id of a fault, and an empty message."""
        if self.code and not _CODE.fullmatch(self.code):
            raise ValueError(f"{self.code!r} is not the id of a fault, such as 'G03'.")
        if not self.message:
            raise ValueError(f"A finding needs a message; {self.code} has none.")

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"[{self.code}] {self.message}" if self.code else self.message


def refusal(code: str, message: str) -> Finding:
    """Return a finding that refuses a case."""
    return Finding(code, Outcome.REFUSED, message)


def warning(code: str, message: str) -> Finding:
    """Return a finding that warns about a case."""
    return Finding(code, Outcome.WARNED, message)


class Refused(BridgeError):  # noqa: N818 - the word that the whole tool uses
    """A case (or one file of it) cannot be used; at least one finding refuses it."""

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        refusals = [f for f in self.findings if f.outcome is Outcome.REFUSED]
        code = refusals[0].code if refusals else ""
        super().__init__("\n".join(map(str, refusals)), code=code)

    @classmethod
    def because(cls, code: str, message: str) -> Refused:
        """Return the refusal that has one reason."""
        return cls([refusal(code, message)])


def worst(findings: Iterable[Finding]) -> Outcome:
    """Return the worst outcome among `findings`; accepted if there is none."""
    return max((finding.outcome for finding in findings), default=Outcome.ACCEPTED)
