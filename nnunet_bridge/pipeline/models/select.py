"""Choose among finished models by cross-validation, beside nnU-Net's own choice."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import combinations, product
from pathlib import Path

from nnunet_bridge.core.errors import InputError, NnUNetError
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import aligned, number
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.files import readable_object, refuse_links, write_json
from nnunet_bridge.formats.manifest import counted_by_case, patients_of
from nnunet_bridge.formats.system import link_or_copy
from nnunet_bridge.nnunet import commands
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.estimates import prediction_multiply_adds
from nnunet_bridge.nnunet.host import Host
from nnunet_bridge.nnunet.models import check_model_folder, require_trusted
from nnunet_bridge.nnunet.names import (
    FILE_ENDING,
    NOT_IN_PLACE,
    Dataset,
    Run,
    trainer_in,
)
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.nnunet.runs import RunState, known_runs
from nnunet_bridge.ops.choice import (
    CHOOSING,
    OPTIMISTIC,
    RULE,
    Candidate,
    Choice,
    NestedChoice,
    choose,
    choose_nested,
)
from nnunet_bridge.pipeline.models import choose as finished
from nnunet_bridge.pipeline.models.fast import FastLoss, keep_loss
from nnunet_bridge.pipeline.models.run_facts import ModelRun, costs_of, fold_run
from nnunet_bridge.pipeline.models.validation import ValidatedStudy, validation_scores

_COLUMNS = {
    "dice": ("dice", 4),
    "nsd": ("nsd", 4),
    "hd95_mm": ("hd95 (mm)", 2),
    "volume_error_cm3_absolute": ("volume error (cm3)", 2),
}
"""Measure -> heading and digits."""


@dataclass(frozen=True, slots=True)
class SelectionOptions:
    """The models to choose from, and the measure that decides."""

    configurations: tuple[str, ...] = ()  # by default all that have finished folds
    models: tuple[str, ...] = ()
    """Words of `--model`; by default all that have finished folds."""

    budget: str | None = None
    metric: str = "dice"  # key of `CHOOSING`
    ensembles: bool = False
    """Whether to predict the held-out cases again, for the mean of every pair."""

    nested: bool = False
    """Whether to score each fold by what the other folds choose, too."""

    fast: bool = False
    """Whether to predict the held-out cases again as `predict --fast` does."""

    device: str = "auto"
    tolerance_mm: float = 1.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """The answer of nnU-Net's `find_best_configuration`, or why there is none."""

    best: str = ""
    dice: Mapping[str, float] = field(default_factory=dict)
    """Candidate -> its Dice, as nnU-Net computes it."""

    remark: str = ""

    def as_text(self) -> str:
        """Return a sentence."""
        if not self.best:
            return f"nnU-Net's own choice: none, {self.remark}."
        dice = ", ".join(f"{name} {dice:.4f}" for name, dice in self.dice.items())
        remark = f"; {self.remark}" if self.remark else ""
        return f"nnU-Net's own choice: {self.best} (its Dice: {dice}{remark})."

    def as_json(self) -> JsonObject:
        """Return the object `second_opinion`."""
        return {**json_of(self), "best": self.best or None}


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """The choice, and the file that keeps it."""

    dataset: str
    budget: str
    options: SelectionOptions
    choice: Choice
    chosen: JsonObject  # `model` and `configurations`, as `predict` takes them
    opinion: Opinion
    checkpoints: JsonObject
    file: Path
    note: str = ""
    nested: NestedChoice | None = None
    fast: tuple[FastLoss, ...] = ()  # what `predict --fast` costs the candidates
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the content of ``choice.json`` and the output of `--json`."""
        return {
            "dataset": self.dataset,
            "budget": self.budget,
            "metric": self.choice.metric,
            "tolerance_mm": self.options.tolerance_mm,
            "rule": RULE,
            "chosen": self.chosen,
            "reason": self.choice.reason,
            "optimistic": True,
            "nested": self.nested and self.nested.as_json(),
            "fast": [loss.as_json() for loss in self.fast],
            "candidates": [one.as_json() for one in self.choice.standings],
            "cases": list(self.choice.case_ids),
            "patients": self.choice.patients,
            "notes": [self.note] if self.note else [],
            "second_opinion": self.opinion.as_json(),
            "checkpoints": self.checkpoints,
            "software": f"nnunet-bridge {__version__}",
        }

    def as_text(self) -> str:
        """Return the candidates as a table, the choice and nnU-Net's."""
        caveat = BUDGETS[self.budget].caveat
        lines = [_table(self.choice), f"Chosen: {self.choice.reason}", OPTIMISTIC]
        if self.nested is not None:
            mean = number(self.nested.mean, 4)
            lines.append(
                f"Nested: {self.choice.metric} {mean} over {self.nested.n} cases, each "
                "fold scored by what the other folds choose."
            )
        lines += [loss.as_text() for loss in self.fast]
        lines += [self.opinion.as_text(), *([f"Note: {caveat}."] if caveat else [])]
        lines += [self.note] if self.note else []
        use = "`predict` uses it unless you give -c or --model."
        return "\n".join([*lines, f"{use} Kept in {self.file}"])


def select_model(
    dataset: Dataset,
    options: SelectionOptions | None = None,
    *,
    progress: Progress | None = None,
    host: Host | None = None,
) -> SelectionSummary:
    """Choose among finished models by the cases that their folds held out.

    Raises
    ------
    InputError
        If nothing asked for has finished, or no case was validated by all.
    NnUNetError
        If predicting the held-out cases fails. nnU-Net's own choice may fail.
    """
    options = options or SelectionOptions()
    comparable = finished.selectable_runs(known_runs(dataset), options.budget)
    configurations, models = options.configurations, options.models
    states = [
        state
        for state in comparable
        if not configurations or state.run.configuration in configurations
        if not models or any(map(state.is_called, models))
    ]
    if not states:
        raise InputError(
            f"{dataset} has no finished fold of the models asked for: train numbered "
            "folds first (`nnunet-bridge status` lists all runs)."
        )
    members: dict[str, list[RunState]] = {}
    for state in states:
        name = finished.model_name(state.model, [state.run.configuration])
        members.setdefault(name, []).append(state)
    selection = _Selection(
        dataset, options, members, progress or Silent(), host or Host()
    )
    candidates = selection.candidates()
    patients = patients_of(dataset.raw_dir, selection.raw.training_cases())
    by = CHOOSING[options.metric], patients
    choice = choose(candidates, *by)
    summary = SelectionSummary(
        dataset.name,
        states[0].budget,
        options,
        choice,
        selection.meaning(choice.chosen),
        selection.second_opinion(),
        finished.checkpoints_of(comparable),
        finished.choice_file(dataset),
        counted_by_case(dataset.raw_dir),
        choose_nested(candidates, *by) if options.nested else None,
        tuple(selection.fast_losses(candidates, patients)) if options.fast else (),
    )
    write_json(summary.file, summary.as_json())
    return summary


@dataclass
class _Selection:
    """One call of `select_model`."""

    dataset: Dataset
    options: SelectionOptions
    members: dict[str, list[RunState]]  # name of a model and configuration -> its folds
    progress: Progress
    host: Host
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Ensemble -> the two whose mean it is."""

    @cached_property
    def raw(self) -> RawDataset:
        """The dataset that all were trained on."""
        return RawDataset.open(self.dataset.raw_dir)

    @cached_property
    def study(self) -> ValidatedStudy:
        """The validation predictions of all, and the references."""
        runs = [
            ModelRun(name, states[0].run.configuration, tuple(map(fold_run, states)))
            for name, states in self.members.items()
        ]
        return ValidatedStudy.of(self.raw, runs, self.options.tolerance_mm)

    @property
    def resources(self) -> commands.Resources:
        """Resources of a process of nnU-Net."""
        return self.host.resources(self.options.device)

    def candidates(self) -> list[Candidate]:
        """Return all that may be chosen, with their scores."""
        study = self.study
        scores, costs = validation_scores(study, self.progress), costs_of(study.runs)
        seconds = {cost.model: cost.prediction_s_per_case for cost in costs}
        single = {
            name: Candidate(name, tuple(found), self._cost(name), seconds[name])
            for name, found in scores.items()
        }
        ensembles = self._ensembles(single) if self.options.ensembles else ()
        return [*single.values(), *ensembles]

    def _cost(self, name: str) -> float:
        """Return the multiply-adds of a model for the median case."""
        states = self.members[name]
        run, folds = states[0].run, len(states)
        plans, described = (
            readable_object(file)[0]
            for file in (run.plans_file, self.dataset.raw_dir / "dataset.json")
        )
        planned = {"configurations": {}, **plans}
        found = prediction_multiply_adds(planned, described, run.configuration, folds)
        return math.inf if found is None else found

    def _ensembles(self, single: Mapping[str, Candidate]) -> Iterator[Candidate]:
        """Predict the held-out cases again, and score the mean of every pair."""
        self.pairs = self._pairs()
        used = {name for pair in self.pairs.values() for name in pair}
        predictions = self.study.predictions().items()
        cases = [case for case, by_model in predictions if used <= set(by_model)]
        self.progress.stage("ensembles", len(self.pairs))
        for done, (name, pair) in enumerate(self.pairs.items(), start=1):
            one, other = (single[member] for member in pair)
            folds = {score.case_id: score.fold for score in one.scores}
            found = self._scores_again(name, cases)
            scores = tuple(replace(s, fold=folds[s.case_id]) for s in found)
            self.progress.advance(done, name)
            cost = one.cost + other.cost
            seconds = one.seconds and other.seconds and one.seconds + other.seconds
            yield Candidate(name, scores, cost, seconds)

    def fast_losses(
        self, candidates: Sequence[Candidate], patients: Mapping[str, str]
    ) -> Iterator[FastLoss]:
        """Measure what `predict --fast` costs each candidate, and keep it."""
        self.progress.stage("fast", len(candidates))
        for done, one in enumerate(candidates, start=1):
            names = self.pairs.get(one.name, (one.name,))
            states = [state for name in names for state in self.members[name]]
            cases = list(dict.fromkeys(score.case_id for score in one.scores))
            used = finished.checkpoints_of([*states, *self._first_stages(states)])
            scores = self._scores_again(one.name, cases, fast=True)
            loss = FastLoss.of(one.name, used, one.scores, scores, patients)
            keep_loss(self.dataset, loss)
            self.progress.advance(done, one.name)
            yield loss

    def _first_stages(self, states: Sequence[RunState]) -> tuple[RunState, ...]:
        done = [state for state in known_runs(self.dataset) if state.done]
        return finished.first_stages(states, done)

    def _scores_again(
        self, name: str, cases: Sequence[str], *, fast: bool = False
    ) -> list[BoneScore]:
        """Predict held-out cases again with a candidate, and score them."""
        names, study = self.pairs.get(name, (name,)), self.study
        scores: list[BoneScore] = []
        records = self.dataset.record_dir
        with tempfile.TemporaryDirectory(prefix=".select-", dir=records) as folder:
            predicted = self._predict_again(names, cases, Path(folder), fast=fast)
            for case, file in predicted.items():
                found, reference = study.prediction(file), study.reference(case)
                scores += study.scored(found, reference, case, name)
        return scores

    def _pairs(self) -> dict[str, tuple[str, str]]:
        """Return the ensembles: pairs of one model, which can predict together."""
        pairs = {}
        for first, second in combinations(self.members, 2):
            one, other = self.members[first][0], self.members[second][0]
            if one.model == other.model:
                configurations = [one.run.configuration, other.run.configuration]
                pairs[finished.model_name(one.model, configurations)] = (first, second)
        if not pairs:
            needed = "two configurations of one model with finished folds"
            raise InputError(f"--ensembles needs {needed}.")
        return pairs

    def _predict_again(
        self, names: Sequence[str], cases: Sequence[str], work: Path, *, fast: bool
    ) -> dict[str, Path]:
        """Predict each case by the mean of the folds that held it out."""
        predicted: dict[str, Path] = {}
        for states in product(*(self.members[name] for name in names)):
            held_out = set.intersection(*map(self._held_out, states))
            todo = [case for case in cases if case in held_out]
            if not todo:
                continue
            folder = work / " ".join(str(state.run.fold) for state in states)
            images, out, previous = (folder / n for n in ("images", "out", "previous"))
            images.mkdir(parents=True)
            for image in (i for c in todo for i in self.raw.image_files(c, "Tr")):
                link_or_copy(images / image.name, image)
            first = self._first_stages(states)
            if first:
                self._predict(first, images, previous, fast=fast)
            given = previous if first else None
            self._predict(states, images, out, previous=given, fast=fast)
            predicted |= {case: out / f"{case}{FILE_ENDING}" for case in todo}
        return predicted

    def _predict(
        self,
        states: Sequence[RunState],
        images: Path,
        out: Path,
        *,
        previous: Path | None = None,
        fast: bool,
    ) -> None:
        """Predict a folder of images by the mean of some runs of different models."""
        run, words = states[0].run, filter(states[0].is_called, self.options.models)
        trusted = next(filter(None, map(trainer_in, words)), "")
        require_trusted(run.trainer, run.plans, trusted)
        members = {state.run.model_dir: [state.run.fold] for state in states}
        for model_dir, folds in members.items():
            check_model_folder(model_dir, folds, trusted)
        command = commands.predict_command(
            members,
            images,
            out,
            self.resources,
            progress_file=out.with_suffix(".jsonl"),
            previous_dir=previous,
        )
        command += commands.trusting(trusted) + (["--fast"] if fast else [])
        self._call(command, " with ".join(state.name for state in states))

    def _call(
        self, command: Sequence[str], task: str, results: Path | None = None
    ) -> None:
        workspace, log = self.dataset.workspace, self.dataset.record_dir / "select.log"
        if results is not None:
            workspace = replace(workspace, results_dir=results)
        process = self.host.launch(workspace, command, self.resources, log)
        self.host.finish(process, task)

    def meaning(self, chosen: str) -> JsonObject:
        """Return the model behind a name, in the words of `predict`."""
        names = self.pairs.get(chosen, (chosen,))
        runs = [self.members[name][0] for name in names]
        return {
            "name": chosen,
            "model": runs[0].model,
            "configurations": [state.run.configuration for state in runs],
        }

    def second_opinion(self) -> Opinion:
        """Ask nnU-Net's `find_best_configuration` about the same runs."""
        common = set.intersection(
            *({int(s.run.fold) for s in states} for states in self.members.values())
        )
        if not common:
            return Opinion(remark="it needs a finished fold that all share")
        runs = {name: states[0].run for name, states in self.members.items()}
        ensembles = len(runs) > 1 and self._has_probabilities(common)
        without = len(runs) > 1 and not ensembles
        remark = "without ensembles, which need `train --probabilities` of every fold"
        self.progress.stage("second opinion", 1)
        refuse_links(self.dataset.results_dir, but=NOT_IN_PLACE)
        records = self.dataset.record_dir
        answer_file = records / ".second-opinion.json"
        asked = list(runs.values()), sorted(common), answer_file, self.resources
        command = commands.second_opinion_command(*asked, ensembles=ensembles)
        try:
            with tempfile.TemporaryDirectory(prefix=".select-", dir=records) as folder:
                results = _linked_results(runs.values(), Path(folder))
                self._call(command, "find_best_configuration", results)
            answer, damage = readable_object(answer_file)
        except NnUNetError as error:
            return Opinion(remark=f"it failed: {error}")
        finally:
            answer_file.unlink(missing_ok=True)
        if damage or not answer:
            return Opinion(remark="it gave no answer")
        return _opinion(answer, runs, remark if without else "")

    def _has_probabilities(self, folds: set[int]) -> bool:
        """Whether every validation of the folds has saved its probabilities."""
        states = [state for states in self.members.values() for state in states]
        return all(
            (state.run.validation_dir / f"{case}.npz").exists()
            for state in states
            if state.run.fold in folds
            for case in self._held_out(state)
        )

    def _held_out(self, state: RunState) -> set[str]:
        """Return the cases that a run has validated."""
        ending = self.raw.ending
        files = state.run.validation_dir.glob(f"*{ending}")
        return {file.name.removesuffix(ending) for file in files}


def _linked_results(runs: Iterable[Run], folder: Path) -> Path:
    """Fill a folder of results with links to the folds of some models.

    nnU-Net's search writes into the folders of the models, over what an earlier search
    of the user left there; here it writes beside the links.
    """
    for run in runs:
        place = folder / run.dataset.name / run.model_dir.name
        place.mkdir(parents=True)
        for entry in run.model_dir.iterdir():
            if entry.is_file() or entry.name.startswith("fold_"):
                link_or_copy(place / entry.name, entry)
    return folder


def _opinion(answer: JsonObject, runs: Mapping[str, Run], remark: str) -> Opinion:
    """Return nnU-Net's answer with our names."""
    names = {run.model_dir.name: name for name, run in runs.items()}

    def ours(identifier: str) -> str:
        parts = [part for part in identifier.split("___") if part in names]
        return "+".join(names[part] for part in parts) or identifier

    dice = {ours(key): float(value) for key, value in answer["all_results"].items()}
    return Opinion(max(dice, key=lambda name: dice[name]), dice, remark)


def _table(choice: Choice) -> str:
    headings = [heading for heading, _ in _COLUMNS.values()]
    behind = f"behind ({choice.metric})"
    header = ["candidate", *headings, "multiply-adds (1e9)", behind, "verdict"]
    rows = []
    for one in choice.standings:
        figures = [number(one.figures[key], n) for key, (_, n) in _COLUMNS.items()]
        cost = number(one.cost / 1e9 if math.isfinite(one.cost) else None, 3)
        verdict = one.verdict + (", chosen" if one.name == choice.chosen else "")
        rows.append([one.name, *figures, cost, number(one.behind, 4), verdict])
    return aligned(header, rows)
