"""How often the answers of `compare` and `select` are wrong, by simulation.

Each row draws studies whose truth is known, lets the package answer, and prints the
share of an answer beside what was promised: models that are equal, one that is better,
failures, inventions, few patients, fold noise, rounded scores, four models.

    python benchmarks/referee.py           # 400 studies a row, about ten minutes
    python benchmarks/referee.py --quick   # 40 studies a row

The bootstrap takes 1000 resamples here instead of 10 000.
"""

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields

import numpy as np

from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.formats.html.tables import metric_tables
from nnunet_bridge.ops import paired
from nnunet_bridge.ops.choice import CHOOSING, Candidate, choose
from nnunet_bridge.ops.comparison import compare_models
from nnunet_bridge.ops.verdict import verdict

paired.clustered_intervals.__kwdefaults__["resamples"] = 1000

FOLDS = 5
NOISE = 0.02  # SD of a model's score in a case, beside the difficulty of the case
PAIR = NOISE * 2**0.5  # SD of the difference of two models
HAS_FOLDS = "fold" in {field.name for field in fields(BoneScore)}
REPEATABLE = "repeat" in {field.name for field in fields(BoneScore)}
Scores = dict[str, list[BoneScore]]


@dataclass(frozen=True)
class Study:
    """What a study is drawn from."""

    patients: int = 12
    shifts: tuple[float, ...] = (0.0, 0.0)  # of each model, in SD of a pair
    fold_noise: float = 0.0  # SD between trainings, in SD between cases
    repeats: int = 1
    decimals: int = 12
    folds: bool = True

    def draw(self, rng: np.random.Generator) -> Scores:
        """Return the scores of models m0, m1, ... on one structure."""
        difficulty = rng.normal(0.75, 0.05, self.patients)
        scores: Scores = {}
        for number, shift in enumerate(self.shifts):
            name = f"m{number}"
            trainings = rng.normal(0, self.fold_noise * NOISE, (self.repeats, FOLDS))
            own = difficulty + shift * PAIR + rng.normal(0, NOISE, self.patients)
            scores[name] = [
                score(
                    name,
                    case,
                    own[case] + trainings[repeat][case % FOLDS],
                    self,
                    repeat,
                )
                for case in range(self.patients)
                for repeat in range(self.repeats)
            ]
        return scores


def score(
    model: str, case: int, value: float, study: Study, repeat: int = 0
) -> BoneScore:
    """Return a score whose distance and volume error follow the Dice."""
    dice = float(np.clip(np.round(value, study.decimals), 0, 1))
    known = {"fold": str(case % FOLDS)} if HAS_FOLDS and study.folds else {}
    if REPEATABLE:
        known["repeat"] = repeat
    far = 20 * (1 - dice)
    volume = 1000 * (1.5 - dice)
    return BoneScore(
        f"c{case:03d}", "tibia", model, "scored", dice, far, far / 3, dice, 1000.0,
        volume, **known,
    )  # fmt: skip


def failed(model: str, case: int, state: str, structure: str = "fibula") -> BoneScore:
    """Return a failure, or the rightly empty structure of a reference without it."""
    share = None if state == "both_empty" else 0.0
    drawn = 50e3 if state == "missed" else 0.0
    found = 50e3 if state == "invented" else 0.0
    known = {"fold": str(case % FOLDS)} if HAS_FOLDS else {}
    return BoneScore(
        f"c{case:03d}", structure, model, state, share, None, None, share, drawn, found,
        **known,
    )  # fmt: skip


def compared(scores: Scores, **margins: float):
    """Compare, each case a patient."""
    patients = {one.case_id: one.case_id for own in scores.values() for one in own}
    return compare_models(scores, patients=patients, margins=margins)


def winner(scores: Scores) -> str:
    """Return the winner of the verdict."""
    return verdict(compared(scores)).winner


def marked(scores: Scores) -> bool:
    """Whether at least one cell of the page is marked as better."""
    tables = metric_tables(compared(scores), plots=False)
    return any(row.favours for table in tables for row in table.rows)


def chosen(scores: Scores, metric: str = "dice"):
    """Return the choice among all models; the last is the dearest."""
    field = [
        Candidate(name, tuple(own), float(n))
        for n, (name, own) in enumerate(scores.items())
    ]
    return choose(field, CHOOSING[metric], {})


def any_worse(scores: Scores) -> bool:
    """Whether `select` calls a candidate worse."""
    choice = chosen(scores)
    return any(one.verdict == "worse" for one in choice.standings)


def inventing(rng: np.random.Generator) -> Scores:
    """Return m1, which draws an absent fibula everywhere and is 0.004 better else."""
    scores = Study(12).draw(rng)
    better = [(s.case_id, s.dice + 0.004 + rng.normal(0, 0.001)) for s in scores["m0"]]
    scores["m1"] = [score("m1", int(case[1:]), dice, Study()) for case, dice in better]
    for name, state in (("m0", "both_empty"), ("m1", "invented")):
        scores[name] += [failed(name, case, state) for case in range(12)]
    return scores


def missing(rng: np.random.Generator) -> Scores:
    """Return m1, which misses the structure in the three hardest cases of twelve."""
    scores = Study(12).draw(rng)
    far = [*(12.0,) * 3, *(2.0,) * 9]
    for name, own in scores.items():
        for case, one in enumerate(own):
            values = {key: getattr(one, key) for key in _names(one)}
            distance = far[case] + rng.normal(0, 0.1)
            values |= {"hd95_mm": distance, "assd_mm": distance / 3}
            own[case] = BoneScore(**values)
        if name == "m1":
            own[:3] = [failed(name, case, "missed", "tibia") for case in range(3)]
    return scores


def lower_mean(scores: Scores) -> bool:
    """Whether the mean HD95 of m1 stands beside a larger one of m0."""
    comparison = compared(scores)
    first, second = (
        comparison.mean(model, "tibia", "hd95_mm").mean for model in ("m0", "m1")
    )
    return second < first - 0.5


def losing(rng: np.random.Generator) -> Scores:
    """Return m1, which loses 0.5 Dice in a quarter of 20 patients."""
    base = Study(20).draw(rng)["m0"]
    return {
        "m0": base,
        "m1": [
            score("m1", n, s.dice + rng.normal(0, 0.001) - 0.5 * (n % 4 == 0), Study())
            for n, s in enumerate(base)
        ],
    }


def _names(one: BoneScore) -> list[str]:
    return [
        name for name in inspect.signature(BoneScore).parameters if hasattr(one, name)
    ]


def covered(scores: Scores) -> bool:
    """Whether the interval of the median holds the true difference, 0."""
    ends = compared(scores).row("dice").interval_95
    return ends is not None and ends[0] <= 0 <= ends[1]


def detectable(rng: np.random.Generator) -> bool:
    """Whether a study shifted by what an equal one prints as detectable finds it."""
    row = compared(Study(20, folds=False).draw(rng)).row("dice")
    shift = getattr(row, "detectable_difference", None)
    if shift is None:
        raise NotImplementedError
    return winner(Study(20, (0.0, shift / PAIR), folds=False).draw(rng)) == "m1"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    name: str
    event: Callable[[np.random.Generator], object]
    promised: str  # in percent: "<= 5", ">= 70", "80" or empty for what is published
    slow: bool = False  # left out of the short form


def rows() -> Iterator[Row]:
    """Yield every line."""

    def ask(question: Callable[[Scores], object], study: Study):
        return lambda rng: question(study.draw(rng))

    yield Row("equal models, 12 patients: a winner", ask(winner, Study()), "<= 5")
    yield Row("the same: a marked cell", ask(marked, Study()), "<= 5")
    rounded = Study(decimals=2)
    yield Row("Dice in hundredths: a winner", ask(winner, rounded), "<= 5")
    four = Study(20, (0.0,) * 4)
    yield Row(
        "four equal models, 20 patients: a winner", ask(winner, four), "<= 5", slow=True
    )
    yield Row("the same: a marked cell", ask(marked, four), "<= 5", slow=True)
    yield Row(
        "interval of the median holds the truth", ask(covered, Study(20)), ">= 92"
    )
    yield Row(
        "m1 invents in 12 of 12: m1 wins",
        lambda r: winner(inventing(r)) == "m1",
        "<= 0",
    )
    yield Row(
        "the same: select takes m1",
        lambda r: chosen(inventing(r)).chosen == "m1",
        "<= 0",
    )
    yield Row(
        "m1 misses 3 of 12: HD95 equivalent",
        lambda r: (
            compared(missing(r), hd95_mm=0.5).row("hd95_mm").answer == "equivalent"
        ),
        "<= 0",
    )
    yield Row(
        "the same: its mean HD95 is the lower", lambda r: lower_mean(missing(r)), "<= 0"
    )
    yield Row(
        "m1 loses 0.5 in a quarter: Dice equivalent",
        lambda r: compared(losing(r), dice=0.01).row("dice").answer == "equivalent",
        "<= 0",
    )
    for patients, candidates in ((2, 2), (5, 2), (8, 4), (20, 4), (20, 2)):
        study = Study(patients, (0.0,) * candidates)
        name = f"select, {candidates} equal, {patients} patients: worse"
        yield Row(name, ask(any_worse, study), "<= 5")
    yield Row("a difference printed as detectable is found", detectable, "80")
    for noise in (0.0, 0.25, 0.5):
        for patients in (10, 20, 50):
            study = Study(patients, fold_noise=noise)
            slow = (noise, patients) != (0.5, 50)
            name = f"equal, fold noise {noise}, {patients} patients: a winner"
            yield Row(name, ask(winner, study), "<= 7", slow=slow)
    for noise in (0.0, 0.25, 0.5):
        for patients in (10, 20, 50):
            for repeats in (1, 3) if REPEATABLE else (1,):
                study = Study(patients, (0.0, 1.0), noise, repeats)
                name = f"shift 1 SD, noise {noise}, {patients} patients, x{repeats}"
                yield Row(f"{name}: found", ask(winner, study), "", slow=True)


def share(row: Row, studies: int) -> float | None:
    """Return the share of studies in which the event happened, in percent."""
    rng = np.random.default_rng(20_251_128)
    try:
        return 100 * sum(bool(row.event(rng)) for _ in range(studies)) / studies
    except NotImplementedError:
        return None


def kept(promised: str, found: float, studies: int) -> bool:
    """Whether a share keeps its promise, within two standard errors of the draws."""
    *sign, number = promised.split()
    limit = float(number)
    error = 200 * np.sqrt(max(limit * (100 - limit), 0) / 100 / 100 / studies)
    if sign == ["<="]:
        return found <= limit + error
    if sign == [">="]:
        return found >= limit - error
    return abs(found - limit) <= error + 5


def table(studies: int, *, quick: bool) -> dict[str, tuple[float | None, str, bool]]:
    """Return row -> share, promise, and whether it is kept."""
    found: dict[str, tuple[float | None, str, bool]] = {}
    place = ""
    for row in rows():
        if quick and row.slow:
            continue
        place = (
            row.name.replace("the same", place) if "the same" in row.name else row.name
        )
        percent = share(row, studies)
        good = (
            percent is None or not row.promised or kept(row.promised, percent, studies)
        )
        found[place] = (percent, row.promised, good)
        place = place.partition(":")[0]
    return found


def lines(found: Mapping[str, tuple[float | None, str, bool]]) -> Iterator[str]:
    """Yield the table as text."""
    yield f"| {'study: answer':66} | share (%) | promised | kept |"
    yield "|---|---|---|---|"
    for name, (percent, promised, good) in found.items():
        words = "-" if percent is None else f"{percent:.1f}"
        verdict_word = (
            "" if not promised or percent is None else "yes" if good else "NO"
        )
        yield f"| {name:66} | {words:>9} | {promised:>8} | {verdict_word:4} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--studies", type=int)
    asked = parser.parse_args()
    studies = asked.studies or (40 if asked.quick else 400)
    for line in lines(table(studies, quick=asked.quick)):
        print(line, flush=True)


if __name__ == "__main__":
    main()
