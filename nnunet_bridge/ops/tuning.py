"""Choose the cleaning rule of every structure: one that is not worse on any fold.

A rule is accepted for a structure only if it improves the mean Dice or the mean HD95,
and worsens neither mean on any fold of the cross-validation. Otherwise the structure is
not cleaned.

Both means are over the same cases before and after:

- Dice over the cases in which either side holds the structure before. An invented
  structure that is removed counts as 1: both sides agree.
- HD95 over the cases that have one before and after. Removing a structure completely
  would only seem to improve it, so a rule that loses a structure is never accepted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from typing import TypeAlias

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import Rule, ScoreState
from nnunet_bridge.ops.means import mean_of
from nnunet_bridge.ops.outcomes import outcome

FoldScores: TypeAlias = Mapping[str, Sequence[BoneScore]]
"""Fold -> scores of its validation cases."""

CANDIDATES = (
    CleaningRule(Rule.SLICE),
    *(CleaningRule(Rule.VOLUME, min_volume_mm3=v) for v in (100.0, 500.0, 1e3, 5e3)),
    CleaningRule(Rule.VOLUME, min_volume_mm3=0.0, keep_largest=2),
    CleaningRule(Rule.VOLUME, min_volume_mm3=0.0, keep_largest=1, each_side=True),
    CleaningRule(Rule.VOLUME, min_volume_mm3=0.0, keep_largest=1),
)
"""The rules to try, the mildest first: of equally good rules the first is chosen."""

_ROUNDING = 1e-9
"""Means that differ by less are equal: rounding errors of sums in another order."""

_Pair: TypeAlias = tuple[BoneScore, BoneScore]
"""Scores of one structure in one case, before and after."""


@dataclass(frozen=True, slots=True)
class MeanChange:
    """The means of one structure before and after, over the same cases.

    A mean over no case is None.
    """

    dice_before: float | None
    dice_after: float | None
    hd95_before_mm: float | None
    hd95_after_mm: float | None
    lost: int  # cases in which a structure that exists and was found is removed

    @property
    def improves(self) -> bool:
        """Whether the mean Dice or the mean HD95 is better than before."""
        return self._dice_gain > _ROUNDING or self._hd95_gain_mm > _ROUNDING

    @property
    def worsens(self) -> bool:
        """Whether either mean is worse than before, or a structure is lost."""
        gains = self._dice_gain, self._hd95_gain_mm
        return self.lost > 0 or min(gains) < -_ROUNDING

    @property
    def _dice_gain(self) -> float:
        return _difference(self.dice_after, self.dice_before)

    @property
    def _hd95_gain_mm(self) -> float:
        return _difference(self.hd95_before_mm, self.hd95_after_mm)


@dataclass(frozen=True, slots=True)
class Trial:
    """The effect of a rule on one structure: over all cases, and fold by fold."""

    structure: str
    rule: CleaningRule
    overall: MeanChange
    folds: Mapping[str, MeanChange]

    @property
    def never_worse(self) -> bool:
        """Whether no fold is worse."""
        return not any(fold.worsens for fold in self.folds.values())

    @property
    def accepted(self) -> bool:
        """Whether the rule may be chosen."""
        return self.overall.improves and self.never_worse

    def as_json(self) -> JsonObject:
        """Return the rule and its effect."""
        return {
            **self.rule.as_json(),
            **asdict(self.overall),
            "accepted": self.accepted,
            "folds": {fold: asdict(change) for fold, change in self.folds.items()},
        }


def tried(
    before: FoldScores, after: FoldScores, rules: Mapping[str, CleaningRule]
) -> tuple[Trial, ...]:
    """Return what `rules` did to each structure that they name.

    `before` and `after` are scores without cleaning and after cleaning by `rules`.
    Raises InputError if a case was not scored after cleaning.
    """
    trials = []
    for name, rule in rules.items():
        pairs = _pairs(before, after, name)
        overall = _mean_change(list(chain.from_iterable(pairs.values())))
        folds = {fold: _mean_change(found) for fold, found in pairs.items()}
        trials.append(Trial(name, rule, overall, folds))
    return tuple(trials)


def chosen_rules(trials: Iterable[Trial]) -> dict[str, CleaningRule]:
    """Return the best accepted rule of every structure.

    The lowest mean HD95 wins, then the highest mean Dice, then the first rule. A
    structure without an accepted rule is not cleaned.
    """
    best: dict[str, Trial | None] = {}
    for trial in trials:
        leading = best.setdefault(trial.structure, None)
        if trial.accepted and (leading is None or _rank(trial) < _rank(leading)):
            best[trial.structure] = trial
    return {name: trial.rule if trial else UNCLEANED for name, trial in best.items()}


def still_good(trials: Iterable[Trial]) -> dict[str, CleaningRule]:
    """Return the rules that are still accepted if all are applied together.

    Where structures touch, a rule may be good alone but not beside the others; such a
    structure is not cleaned.
    """
    return {
        trial.structure: trial.rule if trial.accepted else UNCLEANED for trial in trials
    }


def nested_changes(
    before: FoldScores,
    afters: Sequence[FoldScores],
    candidates: Sequence[Mapping[str, CleaningRule]],
) -> dict[str, MeanChange]:
    """Return the effect of choosing, on folds that took no part in the choice.

    Each fold is cleaned by the rules that the other folds choose, structure by
    structure; `afters` are the scores after each of the `candidates`. Empty with fewer
    than two folds.
    """
    pairs: dict[str, list[_Pair]] = {}
    for fold in before if len(before) > 1 else ():
        others = {name: scores for name, scores in before.items() if name != fold}
        rules = chosen_rules(
            trial
            for after, rule in zip(afters, candidates, strict=True)
            for trial in tried(others, after, rule)
        )
        for name, rule in rules.items():
            places = [
                n for n, tried_on in enumerate(candidates) if tried_on[name] == rule
            ]
            after = afters[places[0]] if places else before
            pairs.setdefault(name, []).extend(
                _pairs({fold: before[fold]}, after, name)[fold]
            )
    return {name: _mean_change(found) for name, found in pairs.items()}


def _pairs(
    before: FoldScores, after: FoldScores, structure: str
) -> dict[str, list[_Pair]]:
    """Return fold -> scores of a structure before and after."""
    pairs = {}
    for fold, scores in before.items():
        twins = {(s.case_id, s.structure): s for s in after.get(fold, ())}
        wanted = [score for score in scores if score.structure == structure]
        missing = [s.case_id for s in wanted if (s.case_id, structure) not in twins]
        if missing:
            raise InputError(
                f"Fold {fold}: {structure} was not scored after cleaning in "
                f"{', '.join(missing)}."
            )
        pairs[fold] = [(score, twins[score.case_id, structure]) for score in wanted]
    return pairs


def _mean_change(pairs: Sequence[_Pair]) -> MeanChange:
    held = [pair for pair in pairs if pair[0].state.held]
    distances = [
        (one.hd95_mm, other.hd95_mm)
        for one, other in pairs
        if one.hd95_mm is not None and other.hd95_mm is not None
    ]
    return MeanChange(
        dice_before=mean_of(outcome(one, "dice") for one, _ in held),
        dice_after=mean_of(outcome(other, "dice") for _, other in held),
        hd95_before_mm=mean_of(one for one, _ in distances),
        hd95_after_mm=mean_of(other for _, other in distances),
        lost=sum(
            one.state is ScoreState.SCORED and other.state is ScoreState.MISSED
            for one, other in pairs
        ),
    )


def _rank(trial: Trial) -> tuple[float, float]:
    """Return a sort key, the best trial first; rounding errors do not decide."""
    means = trial.overall
    distance_mm = 0.0 if means.hd95_after_mm is None else means.hd95_after_mm
    dice = 0.0 if means.dice_after is None else means.dice_after
    return round(distance_mm, 9), -round(dice, 9)


def _difference(larger: float | None, smaller: float | None) -> float:
    """Return the difference of two means; 0 if one does not exist."""
    return 0.0 if larger is None or smaller is None else larger - smaller
