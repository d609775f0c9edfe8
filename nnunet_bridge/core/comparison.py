"""What a comparison of models on the same cases says, as values.

A difference is always **second model minus first**. Whether that is good depends on
the metric: more Dice is better, more HD95 is worse, and a signed volume error is best
at zero, so that its difference shows a shift and ranks nobody.
"""

from __future__ import annotations

from dataclasses import dataclass

ALL_STRUCTURES = "all structures"
"""Name of the row that averages over the structures of each case."""

ROW_STATES = ("compared", "constant", "identical", "one_patient", "too_few", "absent")
"""`compared`: everything is defined. `constant`: every difference is the same, so
resampling shows no spread and there is no interval. `identical`: every difference is
0. `one_patient`: several cases, but of one patient. `too_few`: one pair only.
`absent`: no pair at all."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A measure of a `BoneScore`, and how to read it."""

    key: str
    """Name of the field of `BoneScore`."""

    title: str
    unit: str
    """``mm``, ``cm³``, or empty."""

    better: str
    """``higher``, ``lower`` or ``zero``."""

    decimals: int
    """Digits after the point that are worth showing."""

    @property
    def heading(self) -> str:
        """Return the title with its unit, such as ``HD95 (mm)``."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS: tuple[Metric, ...] = (
    Metric("dice", "Dice", "", "higher", 3),
    Metric("hd95_mm", "HD95", "mm", "lower", 2),
    Metric("assd_mm", "ASSD", "mm", "lower", 2),
    Metric("nsd", "NSD", "", "higher", 3),
    Metric("volume_error_cm3", "Volume error", "cm³", "zero", 2),
)
"""What is compared, in the order of the tables."""


@dataclass(frozen=True, slots=True)
class ModelMean:
    """How one model did on one structure, over the compared cases."""

    model: str
    structure: str
    metric: str
    mean: float | None
    """None where no case has a value."""

    n: int
    """Cases with a value."""


@dataclass(frozen=True, slots=True)
class Miss:
    """How often a model left a structure out, or made one up."""

    model: str
    structure: str
    missed: int
    invented: int


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two models on one structure and one metric, case by case."""

    structure: str
    metric: Metric
    first: str
    second: str
    case_ids: tuple[str, ...]
    """The n cases in which both models have a value."""

    first_values: tuple[float, ...]
    second_values: tuple[float, ...]
    left_out: tuple[str, ...]
    """Compared cases in which one of the two has no value, such as a missed bone."""

    patients: int
    """How many patients the n cases come from."""

    state: str
    """One of `ROW_STATES`."""

    median_difference: float | None = None
    mean_difference: float | None = None
    interval_95: tuple[float, float] | None = None
    """Of the median difference; bootstrap over patients."""

    mean_interval_95: tuple[float, float] | None = None
    p: float | None = None
    """Two-sided, Wilcoxon signed-rank, exact."""

    p_holm: float | None = None
    """`p` after Holm's correction over every row of the comparison."""

    effect: float | None = None
    """Matched-pairs rank-biserial correlation, -1..1; positive: second is larger."""

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return len(self.case_ids)

    @property
    def differences(self) -> tuple[float, ...]:
        """Return second minus first, case by case."""
        pairs = zip(self.first_values, self.second_values, strict=True)
        return tuple(second - first for first, second in pairs)

    @property
    def favours(self) -> str:
        """Return the model that the median difference speaks for; empty if none."""
        shift = self.median_difference
        if not shift or self.metric.better == "zero":
            return ""
        second_is_better = (shift > 0) == (self.metric.better == "higher")
        return self.second if second_is_better else self.first


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every pair of models, structure and metric, on the cases that all models have."""

    models: tuple[str, ...]
    structures: tuple[str, ...]
    """Without `ALL_STRUCTURES`."""

    case_ids: tuple[str, ...]
    """The cases that all models were scored on; nothing else is compared."""

    left_out: tuple[tuple[str, str], ...]
    """(case, model): cases that only some models have, and one that has them."""

    patients: int
    rows: tuple[PairedDifference, ...]
    means: tuple[ModelMean, ...]
    misses: tuple[Miss, ...]
    """Only models and structures with at least one."""

    def row(
        self, metric: str, structure: str = ALL_STRUCTURES, *, pair: int = 0
    ) -> PairedDifference:
        """Return the row of a metric and structure, for the `pair`-th two models.

        Raises
        ------
        KeyError
            If there is none.
        """
        found = [
            row
            for row in self.rows
            if row.metric.key == metric and row.structure == structure
        ]
        if pair >= len(found):
            raise KeyError((metric, structure, pair))
        return found[pair]

    def mean(self, model: str, structure: str, metric: str) -> ModelMean:
        """Return how a model did on a structure; KeyError if nobody asked."""
        for mean in self.means:
            if (mean.model, mean.structure, mean.metric) == (model, structure, metric):
                return mean
        raise KeyError((model, structure, metric))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer in two sentences."""

    winner: str
    """The model that is better; empty while undecided."""

    sentences: tuple[str, str]
    """What the cases say, and what they cannot say."""

    def __str__(self) -> str:
        """Return both sentences."""
        return " ".join(self.sentences)
