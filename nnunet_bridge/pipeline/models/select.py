"""Which finished model to use: our choice from cross-validation, and nnU-Net's."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, product
from pathlib import Path

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.errors import InputError, NnUNetError
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.files import readable_object, write_json
from nnunet_bridge.formats.manifest import read_patient_groups
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.commands import (
    Resources,
    nnunet_environment,
    predict_command,
    run_to_end,
    second_opinion_command,
    shared_among,
)
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.machine import chosen_device, this_machine
from nnunet_bridge.nnunet.models import check_model_folder
from nnunet_bridge.nnunet.names import FILE_ENDING, Dataset, Run, Workspace
from nnunet_bridge.nnunet.plans import BUDGETS
from nnunet_bridge.nnunet.runs import RunState, known_runs
from nnunet_bridge.ops.choice import CHOOSING, RULE, Candidate, Choice, choose
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.pipeline.models.choose import model_name
from nnunet_bridge.pipeline.models.run_facts import ModelRun, costs_of, fold_run
from nnunet_bridge.pipeline.models.selection import (
    checkpoints_of,
    choice_file,
    weighable,
)
from nnunet_bridge.pipeline.models.validation import ValidatedStudy, validation_scores

_COLUMNS = {
    "dice": ("dice", 4),
    "nsd": ("nsd", 4),
    "hd95_mm": ("hd95 (mm)", 2),
    "volume_error_cm3_absolute": ("volume error (cm3)", 2),
}
"""Measure -> heading and digits."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What may be chosen, and by what."""

    configurations: tuple[str, ...] = ()
    """All that have finished folds, if empty; likewise the models."""

    models: tuple[str, ...] = ()
    budget: str | None = None
    metric: str = "dice"
    """Key of `CHOOSING`."""

    ensembles: bool = False
    """Whether to predict the cases held out again, for the mean of every pair."""

    device: str = "auto"
    tolerance_mm: float = 1.0


@dataclass(frozen=True, slots=True)
class Opinion:
    """What nnU-Net's own `find_best_configuration` says, or why it says nothing."""

    best: str = ""
    dice: Mapping[str, float] = field(default_factory=dict)
    """Candidate -> its Dice, as nnU-Net computes it."""

    remark: str = ""

    def as_text(self) -> str:
        """Return a sentence."""
        if not self.best:
            return f"nnU-Net's own choice: none, {self.remark}."
        told = ", ".join(f"{name} {dice:.4f}" for name, dice in self.dice.items())
        remark = f"; {self.remark}" if self.remark else ""
        return f"nnU-Net's own choice: {self.best} (its Dice: {told}{remark})."

    def as_json(self) -> JsonObject:
        """Return the object `second_opinion`."""
        return {
            "best": self.best or None,
            "dice": dict(self.dice),
            "remark": self.remark,
        }


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """The choice, and where it is kept."""

    dataset: str
    budget: str
    wishes: Wishes
    choice: Choice
    chosen: JsonObject
    """`model` and `configurations`, as `predict` takes them."""

    opinion: Opinion
    checkpoints: JsonObject
    file: Path

    @property
    def exit_code(self) -> int:
        """0: without a choice there is no summary."""
        return 0

    def as_json(self) -> JsonObject:
        """Return what ``choice.json`` and `--json` hold."""
        return {
            "dataset": self.dataset,
            "budget": self.budget,
            "metric": self.choice.metric,
            "tolerance_mm": self.wishes.tolerance_mm,
            "rule": RULE,
            "chosen": self.chosen,
            "reason": self.choice.reason,
            "candidates": [one.as_json() for one in self.choice.standings],
            "cases": list(self.choice.case_ids),
            "patients": self.choice.patients,
            "second_opinion": self.opinion.as_json(),
            "checkpoints": self.checkpoints,
            "software": f"nnunet-bridge {__version__}",
        }

    def as_text(self) -> str:
        """Return the candidates as a table, the choice and nnU-Net's."""
        caveat = BUDGETS[self.budget].caveat
        return "\n".join(
            [
                _table(self.choice),
                f"Chosen: {self.choice.reason}",
                self.opinion.as_text(),
                *([f"Note: {caveat}."] if caveat else []),
                f"`predict` without -c and --model takes it; kept in {self.file}",
            ]
        )


def select_model(
    workspace: Workspace,
    dataset: str,
    wishes: Wishes,
    *,
    progress: Progress | None = None,
) -> SelectionSummary:
    """Choose among finished models by the cases that their folds held out.

    Raises
    ------
    InputError
        If nothing asked for has finished, or no case was validated by all.
    NnUNetError
        If predicting for an ensemble fails; nnU-Net's second opinion may fail.
    """
    shown = progress or Silent()
    everything = weighable(known_runs(Dataset(workspace, dataset)), wishes.budget)
    states = [
        state
        for state in everything
        if not wishes.configurations or state.run.configuration in wishes.configurations
        if not wishes.models or state.model in wishes.models
    ]
    if not states:
        raise InputError(
            f"{dataset} has no finished fold of what was asked for: train numbered "
            "folds first (`nnunet-bridge status` shows what there is)."
        )
    story = _Story(workspace, dataset, wishes, _members(states), shown)
    candidates = story.candidates()
    raw = story.raw
    choice = choose(
        candidates, CHOOSING[wishes.metric], read_patient_groups(raw.folder)
    )
    summary = SelectionSummary(
        dataset,
        states[0].budget,
        wishes,
        choice,
        story.meaning(choice.chosen),
        story.second_opinion(),
        checkpoints_of(everything),
        choice_file(workspace, dataset),
    )
    write_json(summary.file, summary.as_json())
    return summary


def _members(states: Sequence[RunState]) -> dict[str, list[RunState]]:
    """Return the folds of every model and configuration, by its name."""
    members: dict[str, list[RunState]] = {}
    for state in states:
        name = model_name(state.model, [state.run.configuration])
        members.setdefault(name, []).append(state)
    return members


@dataclass(slots=True)
class _Story:
    """One call of `select_model`."""

    workspace: Workspace
    dataset: str
    wishes: Wishes
    members: dict[str, list[RunState]]
    progress: Progress
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Ensemble -> the two whose mean it is."""

    @property
    def raw(self) -> RawDataset:
        """The dataset that all were trained on."""
        return RawDataset.open(self.workspace.dataset_dir(self.dataset))

    @property
    def resources(self) -> Resources:
        """What a process of nnU-Net may use."""
        machine = this_machine()
        return shared_among(1, chosen_device(self.wishes.device, machine), machine)

    def candidates(self) -> list[Candidate]:
        """Return all that may be chosen, with their scores."""
        runs = [self._model_run(name) for name in self.members]
        raw = self.raw
        study = ValidatedStudy(
            tuple(runs),
            raw.folder / "labelsTr",
            raw.folder / "imagesTr",
            raw.labels,
            self.wishes.tolerance_mm,
        )
        scores = validation_scores(study, self.progress)
        costs = {cost.model: cost.prediction_s_per_case for cost in costs_of(runs)}
        single = [
            Candidate(name, tuple(found), costs[name] or math.inf)
            for name, found in scores.items()
        ]
        if not self.wishes.ensembles:
            return single
        return [*single, *self._ensembles(study, {c.name: c.cost for c in single})]

    def _model_run(self, name: str) -> ModelRun:
        states = self.members[name]
        folds = tuple(fold_run(state) for state in states)
        return ModelRun(name, states[0].run.configuration, folds)

    def _ensembles(
        self, study: ValidatedStudy, costs: Mapping[str, float]
    ) -> Iterator[Candidate]:
        """Predict the cases held out again, and score the mean of every pair."""
        for first, second in combinations(self.members, 2):
            one, other = self.members[first][0], self.members[second][0]
            if one.model == other.model:  # only these can predict together
                configurations = [one.run.configuration, other.run.configuration]
                name = model_name(one.model, configurations)
                self.pairs[name] = (first, second)
        if not self.pairs:
            raise InputError(
                "--ensembles needs two configurations of one model with finished folds."
            )
        used = sorted({name for pair in self.pairs.values() for name in pair})
        found = study.predictions()
        cases = [case for case, by in found.items() if set(used) <= set(by)]
        with tempfile.TemporaryDirectory(
            prefix=".select-", dir=self.workspace.record_dir(self.dataset)
        ) as folder:
            work = Path(folder)
            self.progress.stage("ensembles", len(self.pairs))
            for done, (name, pair) in enumerate(self.pairs.items(), start=1):
                predicted = self._predict_again(pair, cases, work / name)
                scores = [
                    score
                    for case, file in predicted.items()
                    for score in bone_scores(
                        read_labelmap(file, study.labels),
                        study.reference(case),
                        case_id=case,
                        configuration=name,
                        tolerance_mm=study.tolerance_mm,
                    )
                ]
                cost = sum(costs[one] for one in pair)
                self.progress.advance(done, name)
                yield Candidate(name, tuple(scores), cost)

    def _predict_again(
        self, pair: tuple[str, str], cases: Sequence[str], work: Path
    ) -> dict[str, Path]:
        """Predict each case by the mean of the folds that held it out."""
        one, other = (self.members[name] for name in pair)
        predicted: dict[str, Path] = {}
        for first, second in product(one, other):
            held_out = self._held_out(first) & self._held_out(second)
            todo = [case for case in cases if case in held_out]
            if not todo:
                continue
            folder = work / f"{first.run.fold} {second.run.fold}"
            images, out = folder / "images", folder / "predicted"
            images.mkdir(parents=True)
            for case in todo:
                for image in self.raw.image_files(case, "Tr"):
                    (images / image.name).symlink_to(image)
            folds = {state.run.model_dir: [state.run.fold] for state in (first, second)}
            for model_dir, members in folds.items():
                check_model_folder(model_dir, members)
            command = predict_command(
                folds,
                images,
                out,
                self.resources,
                progress_file=folder / "progress.jsonl",
            )
            self._call(command, f"{first.name} with {second.name}")
            predicted |= {case: out / f"{case}{FILE_ENDING}" for case in todo}
        return predicted

    def _held_out(self, state: RunState) -> set[str]:
        """Return the cases that a training has validated."""
        folder = state.run.validation_dir
        return {
            file.name.removesuffix(FILE_ENDING)
            for file in folder.glob(f"*{FILE_ENDING}")
        }

    def _call(self, command: Sequence[str], task: str) -> None:
        environment = nnunet_environment(self.workspace, self.resources, os.environ)
        log_file = self.workspace.record_dir(self.dataset) / "select.log"
        for _ in run_to_end(command, environment, log_file, task):
            pass

    def meaning(self, chosen: str) -> JsonObject:
        """Return what a name stands for, in the words of `predict`."""
        names = self.pairs.get(chosen, (chosen,))
        runs = [self.members[name][0] for name in names]
        return {
            "name": chosen,
            "model": runs[0].model,
            "configurations": [state.run.configuration for state in runs],
        }

    def second_opinion(self) -> Opinion:
        """Ask nnU-Net's `find_best_configuration` about the same trainings."""
        common = set.intersection(
            *({int(s.run.fold) for s in states} for states in self.members.values())
        )
        if not common:
            return Opinion(remark="it needs a finished fold that all have in common")
        runs = {name: states[0].run for name, states in self.members.items()}
        ensembles = len(runs) > 1 and self._has_probabilities(common)
        remark = ""
        if len(runs) > 1 and not ensembles:
            remark = (
                "without ensembles, for which it needs `train --probabilities` of "
                "every fold"
            )
        self.progress.stage("second opinion", 1)
        answer_file = self.workspace.record_dir(self.dataset) / ".second-opinion.json"
        command = second_opinion_command(
            *(list(runs.values()), sorted(common), answer_file, self.resources),
            ensembles=ensembles,
        )
        try:
            self._call(command, "find_best_configuration")
            answer, damage = readable_object(answer_file)
        except NnUNetError as error:
            return Opinion(remark=f"it failed: {error}")
        finally:
            answer_file.unlink(missing_ok=True)
        if damage or not answer:
            return Opinion(remark="it gave no answer")
        return _opinion(answer, runs, remark)

    def _has_probabilities(self, folds: set[int]) -> bool:
        """Whether every validation of the folds kept its probabilities."""
        validations = [
            state.run.validation_dir
            for states in self.members.values()
            for state in states
            if state.run.fold in folds
        ]
        return all(
            file.with_name(file.name.removesuffix(FILE_ENDING) + ".npz").exists()
            for folder in validations
            for file in folder.glob(f"*{FILE_ENDING}")
        )


def _opinion(answer: JsonObject, runs: Mapping[str, Run], remark: str) -> Opinion:
    """Return nnU-Net's answer with our names."""
    names = {
        f"{run.trainer}__{run.plans}__{run.configuration}": name
        for name, run in runs.items()
    }

    def ours(identifier: str) -> str:
        parts = [part for part in identifier.split("___") if part in names]
        return "+".join(names[part] for part in parts) or identifier

    dice = {ours(key): float(value) for key, value in answer["all_results"].items()}
    return Opinion(max(dice, key=lambda name: dice[name]), dice, remark)


def _table(choice: Choice) -> str:
    header = [
        *("candidate", *(heading for heading, _ in _COLUMNS.values())),
        *("s a case", f"behind ({choice.metric})", "verdict"),
    ]
    rows = []
    for one in choice.standings:
        figures = [
            number(one.figures[key], digits) for key, (_, digits) in _COLUMNS.items()
        ]
        cost = number(one.cost if math.isfinite(one.cost) else None, 1)
        chosen = ", chosen" if one.name == choice.chosen else ""
        rows.append(
            [one.name, *figures, cost, number(one.behind, 4), one.verdict + chosen]
        )
    return aligned(header, rows)
