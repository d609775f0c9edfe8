"""The report of one case, and of all cases of a command.

Every command that works case by case reports with these values, so that outcome,
codes, messages and exit code have one form in text and in JSON.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from nnunet_bridge.core.errors import BridgeError, GeometryError, InputError
from nnunet_bridge.core.findings import Finding, Outcome, Refused, worst
from nnunet_bridge.core.quoting import quoted, without_names
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import aligned

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class CaseReport:
    """The outcome of one case and the findings behind it.

    Commands that report more derive from it and override `details`.
    """

    case_id: str
    findings: tuple[Finding, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst finding decides; a case without findings is accepted."""
        return worst(self.findings)

    @property
    def refused(self) -> bool:
        """Whether the case was refused."""
        return self.outcome is Outcome.REFUSED

    @property
    def codes(self) -> tuple[str, ...]:
        """The codes of the findings, worst first, each once."""
        return codes_of(self.findings)

    @property
    def messages(self) -> tuple[str, ...]:
        """The findings as lines for a person, worst first, each once."""
        return messages_of(self.findings)

    def details(self) -> JsonObject:
        """Return what a command adds to the common fields of its JSON."""
        return {}

    def as_json(self) -> JsonObject:
        """Return the entry of ``cases`` in the output of ``--json``."""
        return {
            "case": self.case_id,
            "outcome": str(self.outcome),
            "codes": list(self.codes),
            "messages": list(self.messages),
            **self.details(),
        }

    def as_text(self) -> str:
        """Return one line for a person."""
        return f"{self.case_id}: {self.outcome}. {' '.join(self.messages)}".rstrip()


@dataclass(frozen=True, slots=True)
class CasesSummary:
    """The result of a command that works case by case."""

    cases: tuple[CaseReport, ...]

    @property
    def exit_code(self) -> int:
        """0; 4 if some cases were refused; 3 if all were."""
        return exit_code_of(self.cases)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
        """Return rows as a table, if there are any, then the cases with findings."""
        lines = [aligned(header, rows)] if rows else []
        return [*lines, *(case.as_text() for case in self.cases if case.findings)]


def codes_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return the codes of findings, worst first, each once."""
    return tuple(dict.fromkeys(f.code for f in _worst_first(findings) if f.code))


def messages_of(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return findings as lines for a person, worst first, each once."""
    return tuple(map(str, _worst_first(findings)))


def findings_record(
    findings: Iterable[Finding], names: Iterable[str] = ()
) -> list[JsonObject]:
    """Return findings, worst first, for a file that holds no names of the user's files.

    `names` are file and folder names to remove where they are not `quoted`.
    """
    known = tuple(names)
    return [
        {
            "code": finding.code,
            "outcome": str(finding.outcome),
            "message": without_names(finding.message, known),
        }
        for finding in _worst_first(findings)
    ]


def findings_in(record: Iterable[Mapping[str, str]]) -> tuple[Finding, ...]:
    """Return the findings that `findings_record` wrote."""
    return tuple(
        Finding(entry["code"], Outcome[entry["outcome"].upper()], entry["message"])
        for entry in record
    )


def _worst_first(findings: Iterable[Finding]) -> list[Finding]:
    once = dict.fromkeys(findings)
    return sorted(once, key=lambda finding: -finding.outcome)


def exit_code_of(cases: Iterable[CaseReport]) -> int:
    """Return 0 if no case was refused, 4 if some were, 3 if all were."""
    refused = [case.refused for case in cases]
    if not any(refused):
        return 0
    return 3 if all(refused) else 4


def outcome_counts(cases: Iterable[CaseReport]) -> str:
    """Return how many cases had each outcome."""
    counts = Counter(case.outcome for case in cases)
    return ", ".join(f"{counts[kind]} {kind}" for kind in Outcome if counts[kind])


def findings_of_error(error: BridgeError) -> tuple[Finding, ...]:
    """Return the findings of a refusal, or one refusal for any other error."""
    if isinstance(error, Refused):
        return error.findings
    return (Finding(error.code, Outcome.REFUSED, str(error)),)


@contextmanager
def memory_errors_refused(what: str) -> Iterator[None]:
    """Refuse one case for which memory did not suffice (F10)."""
    try:
        yield
    except MemoryError as error:
        rest = "close other programs, or use a machine with more memory."
        text = f"{what} needs more memory than is available: {rest}"
        raise Refused.because("F10", text) from error


def unexpected(error: Exception) -> Refused:
    """Return the refusal of a case whose files no check had expected (F15)."""
    reason = f"{type(error).__name__}: {str(error)[:200]}"
    return Refused.because(
        "F15",
        f"A file of the case cannot be used ({quoted(reason)}): export its image and "
        "masks again or leave the case out, and please report this message.",
    )


def run_case(
    case_id: str, work: Callable[[], Result]
) -> tuple[CaseReport, Result | None]:
    """Process one case; turn a faulty input into a refused case without a result.

    A full disk or a missing permission is raised: it would affect every case. What no
    reader expected in a file affects this case alone (F15).
    """
    try:
        with memory_errors_refused(case_id):
            result = work()
    except (Refused, InputError, GeometryError) as error:
        return CaseReport(case_id, findings_of_error(error)), None
    except (BridgeError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - the boundary around the files of one case
        return CaseReport(case_id, findings_of_error(unexpected(error))), None
    return CaseReport(case_id), result
