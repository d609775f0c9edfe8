"""The results of a comparison of models on the same cases.

A difference is always **second model minus first**. Whether that is good depends on
the metric: a higher Dice is better, a higher HD95 is worse. A signed volume error is
best at zero; its difference shows a shift and favours no model.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from nnunet_bridge.core.errors import InputError, UsageError
from nnunet_bridge.core.words import Answer, Better, RowState, checked_word

SIGNIFICANT = 0.05  # a p below it, corrected, is an answer
ALL_STRUCTURES = "all structures"  # row with the mean over the structures of each case


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a `BoneScore`."""

    key: str  # name of the field of `BoneScore`
    title: str
    unit: str  # ``mm``, ``cm³``, or empty
    better: Better
    decimals: int  # digits to show after the decimal point

    @property
    def heading(self) -> str:
        """Return the title with its unit, such as ``HD95 (mm)``."""
        return f"{self.title} ({self.unit})" if self.unit else self.title


METRICS: tuple[Metric, ...] = (
    Metric("dice", "Dice", "", Better.HIGHER, 3),
    Metric("hd95_mm", "HD95", "mm", Better.LOWER, 2),
    Metric("assd_mm", "ASSD", "mm", Better.LOWER, 2),
    Metric("nsd", "NSD", "", Better.HIGHER, 3),
    Metric("volume_error_cm3", "Volume error", "cm³", Better.ZERO, 2),
)
"""The compared metrics, in the order of the tables."""

_SHORT_NAMES = {"hd95": "hd95_mm", "assd": "assd_mm", "volume": "volume_error_cm3"}


def margins_from(words: Sequence[str]) -> dict[str, float]:
    """Parse margins of equivalence: ``metric=size``, in the unit of the metric.

    ``hd95``, ``assd`` and ``volume`` stand for ``hd95_mm``, ``assd_mm`` and
    ``volume_error_cm3``. Raises UsageError if a metric is unknown or given twice, or a
    size is not a positive number.
    """
    margins: dict[str, float] = {}
    known = [metric.key for metric in METRICS]
    for word in words:
        name, _, size = word.partition("=")
        key = _SHORT_NAMES.get(name.strip().lower(), name.strip().lower())
        if key not in known:
            raise UsageError(
                f"Unknown metric in the margin {word!r}. Write dice=0.01, with one of "
                f"{', '.join(known)}."
            )
        if key in margins:
            raise UsageError(f"The margin of {key} is given twice. Give it once.")
        try:
            margins[key] = float(size)
        except ValueError:
            margins[key] = math.nan
        if not 0 < margins[key] < math.inf:
            raise UsageError(
                f"The margin {word!r} has no size. Give a positive number: dice=0.01."
            )
    return margins


@dataclass(frozen=True, slots=True)
class ModelMean:
    """The mean of one model on one structure, over the same cases for all models."""

    model: str
    structure: str
    metric: str
    mean: float | None  # None if no case has a value
    n: int  # cases in which every model has a value, and no distance is a failure
    n_failed: int = 0  # cases in which this model misses or invents the structure


@dataclass(frozen=True, slots=True)
class Miss:
    """How often a model missed or invented a structure."""

    model: str
    structure: str
    missed: int
    invented: int
    n: int = 0  # cases in which the reference or a model holds the structure


@dataclass(frozen=True, slots=True)
class ModelRank:
    """The rank of a model among all models on one metric, case by case."""

    model: str
    metric: str
    mean_rank: float | None
    """1 is best; models that tie in a case share the mean of their ranks."""

    firsts: int  # cases in which no model is better
    n: int  # cases in which every model has a value over all structures


@dataclass(frozen=True, slots=True)
class ModelCost:
    """The cost of a model, as its trainings measured it; None if not measured."""

    model: str
    trainings: int  # number of folds; `training_s` is their sum
    training_s: float | None = None
    prediction_s_per_case: float | None = None
    """In nnU-Net's final validation: prediction, export and scoring of a case."""

    peak_memory_bytes: float | None = None
    """Peak of the training process, the highest of all folds."""

    peak_gpu_memory_bytes: float | None = None
    parameters: float | None = None


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of a table with a column for each model."""

    name: str
    values: tuple[str, ...]
    """In the order of the models; empty where a value is missing."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of the volume of a structure with its reference, for one model.

    After Bland and Altman 1986 and 1999: the bias is the mean difference, prediction
    minus reference; 95 % of the differences are expected within the limits.
    """

    model: str
    structure: str
    case_ids: tuple[str, ...]
    means_cm3: tuple[float, ...]  # mean of prediction and reference, case by case
    differences_cm3: tuple[float, ...]  # prediction minus reference, case by case
    patients: int
    bias_cm3: float | None = None
    limits_cm3: tuple[float, float] | None = None
    """Bias minus and plus 1.96 standard deviations; None below two cases."""

    bias_interval_95: tuple[float, float] | None = None
    """None if a patient has several cases: they are not independent."""

    lower_limit_interval_95: tuple[float, float] | None = None
    upper_limit_interval_95: tuple[float, float] | None = None

    @property
    def n(self) -> int:
        """Return the number of cases."""
        return len(self.case_ids)


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """Two models on one structure and one metric, case by case."""

    structure: str
    metric: Metric
    first: str
    second: str
    case_ids: tuple[str, ...]  # the n cases in which both models have a value
    first_values: tuple[float, ...]
    second_values: tuple[float, ...]
    """A distance is infinite where the model missed or invented the structure."""

    left_out: tuple[str, ...]
    """Compared cases in which a model has no value, such as one not drawn."""

    patients: int  # number of patients behind the n cases
    state: RowState
    median_difference: float | None = None
    mean_difference: float | None = None
    interval_95: tuple[float, float] | None = None
    """95 % interval of the median difference; bootstrap over patients."""

    mean_interval_95: tuple[float, float] | None = None
    p: float | None = None  # two-sided, Wilcoxon signed-rank, exact
    p_holm: float | None = None
    """`p` after Holm's correction over every row of the comparison."""

    effect: float | None = None
    """Matched-pairs rank-biserial correlation, -1..1; positive: second is larger."""

    failures: tuple[int, int] = (0, 0)
    """Cases in which the first and the second model miss or invent a structure."""

    folds: int = 0
    """Folds behind the two intervals below; 0 if the folds are unknown or one."""

    fold_interval_95: tuple[float, float] | None = None
    """95 % interval of the mean difference from the means of the folds."""

    fold_interval_95_corrected: tuple[float, float] | None = None
    """The same after Nadeau and Bengio, for overlapping training sets."""

    detectable_difference: float | None = None
    """Smallest difference that these patients would show with a power of 80 %."""

    margin: float | None = None
    """Largest difference that does not matter, as the reader defined it."""

    answer: Answer | None = None
    """The second model against the first; None without a margin."""

    def __post_init__(self) -> None:
        """Refuse an unknown state or answer, and columns of different lengths."""
        object.__setattr__(self, "state", checked_word(RowState, self.state, "state"))
        if self.answer is not None:
            answer = checked_word(Answer, self.answer, "answer")
            object.__setattr__(self, "answer", answer)
        first, second = len(self.first_values), len(self.second_values)
        if not first == second == self.n or self.patients > self.n:
            raise InputError(
                f"{self.first} and {self.second}: {self.n} cases of {self.patients} "
                f"patients with {first} and {second} values."
            )

    @property
    def n(self) -> int:
        """Return the number of pairs."""
        return len(self.case_ids)

    @property
    def n_means(self) -> int:
        """Return the number of cases in which neither distance is a failure."""
        return len(self._finite)

    @property
    def means(self) -> tuple[float | None, float | None]:
        """The means of both models over the `n_means` cases; None without a case."""
        if not self._finite:
            return None, None
        first, second = map(fmean, zip(*self._finite, strict=True))
        return first, second

    @property
    def differences(self) -> tuple[float, ...]:
        """Return second minus first, case by case; 0 where both are failures."""
        pairs = zip(self.first_values, self.second_values, strict=True)
        return tuple(
            0.0 if first == second else second - first for first, second in pairs
        )

    @property
    def _finite(self) -> list[tuple[float, float]]:
        pairs = zip(self.first_values, self.second_values, strict=True)
        return [pair for pair in pairs if all(map(math.isfinite, pair))]

    @property
    def favours(self) -> str:
        """Return the model that the median difference favours; empty if none.

        None is favoured if the mean difference favours the other.
        """
        shift = self.median_difference
        if not shift or self.metric.better is Better.ZERO:
            return ""
        if (self.mean_difference or 0.0) * shift < 0:
            return ""
        second_is_better = (shift > 0) == (self.metric.better is Better.HIGHER)
        return self.second if second_is_better else self.first

    @property
    def holds_for_trainings(self) -> bool:
        """Whether the folds agree, or there is only one, or they are unknown."""
        ends = self.fold_interval_95
        if ends is None or self.median_difference is None:
            return True
        return ends[0] > 0 if self.median_difference > 0 else ends[1] < 0

    @property
    def winner(self) -> str:
        """The model that is better after Holm's correction; empty if none is."""
        return self.winner_by(self.p_holm)

    def winner_by(self, p: float | None) -> str:
        """Return the better model, by a corrected p, the interval and the folds."""
        if self.interval_95 is None or p is None or p >= SIGNIFICANT:
            return ""
        low, high = self.interval_95
        decided = (low > 0 or high < 0) and self.holds_for_trainings
        return self.favours if decided else ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Every pair of models, structure and metric, on the cases that all models have."""

    models: tuple[str, ...]
    structures: tuple[str, ...]  # without `ALL_STRUCTURES`
    case_ids: tuple[str, ...]
    """The cases that all models were scored on; nothing else is compared."""

    left_out: tuple[tuple[str, str], ...]
    """(case, model) of every case that only some of the models have."""

    patients: int
    rows: tuple[PairedDifference, ...]
    means: tuple[ModelMean, ...]
    misses: tuple[Miss, ...]  # only models and structures with at least one
    agreements: tuple[Agreement, ...] = ()
    """Volumes against their references, by structure and model."""

    ranks: tuple[ModelRank, ...] = ()
    """Every model on every metric, over all structures."""

    def row(
        self, metric: str, structure: str = ALL_STRUCTURES, *, pair: int = 0
    ) -> PairedDifference:
        """Return the row of a metric, a structure and a pair of models, or KeyError."""
        wanted = (metric, structure)
        found = [row for row in self.rows if (row.metric.key, row.structure) == wanted]
        if pair >= len(found):
            raise KeyError((*wanted, pair))
        return found[pair]

    def mean(self, model: str, structure: str, metric: str) -> ModelMean:
        """Return the mean of a model on a structure; KeyError if there is none."""
        for mean in self.means:
            if (mean.model, mean.structure, mean.metric) == (model, structure, metric):
                return mean
        raise KeyError((model, structure, metric))


@dataclass(frozen=True, slots=True)
class Verdict:
    """The conclusion in a few sentences."""

    winner: str  # the better model; empty if there is none
    sentences: tuple[str, ...]  # the answer, its statistics, and its limits
    answer: Answer = Answer.UNDECIDED

    def __str__(self) -> str:
        """Return all sentences."""
        return " ".join(self.sentences)
