"""What was noticed about a case: a code, how grave it is, and one sentence.

The codes are the ids of `docs/reference/faults.md`. A case is as good as its worst
finding; a case without any is accepted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

from nnunet_bridge.core.errors import BridgeError


class Outcome(IntEnum):
    """What happened to a case, from best to worst."""

    ACCEPTED = 0
    FIXED = 1
    WARNED = 2
    REFUSED = 3

    def __str__(self) -> str:
        """Return the word that the command line and the manifest use."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing noticed about a case.

    Examples
    --------
    >>> str(Finding("G03", Outcome.REFUSED, "One slice is missing."))
    '[G03] One slice is missing.'
    """

    code: str
    """Id of the fault, such as ``"G03"``."""

    outcome: Outcome
    """How grave it is."""

    message: str
    """One sentence: what, where, and what to do."""

    def __str__(self) -> str:
        """Return the line that a person reads."""
        return f"[{self.code}] {self.message}" if self.code else self.message


class Refused(BridgeError):  # noqa: N818 - the word that the whole tool uses
    """A case (or one file of it) cannot be used; carries everything noticed.

    Parameters
    ----------
    findings : iterable of Finding
        At least one of them with `Outcome.REFUSED`.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = tuple(findings)
        refusals = [f for f in self.findings if f.outcome is Outcome.REFUSED]
        super().__init__(
            "\n".join(str(finding) for finding in refusals),
            code=refusals[0].code if refusals else "",
        )

    @classmethod
    def because(cls, code: str, message: str) -> Refused:
        """Return the refusal that has one reason."""
        return cls([Finding(code, Outcome.REFUSED, message)])


def worst(findings: Iterable[Finding]) -> Outcome:
    """Return the gravest outcome among `findings`; accepted if there is none."""
    return max((finding.outcome for finding in findings), default=Outcome.ACCEPTED)
