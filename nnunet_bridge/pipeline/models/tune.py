"""The cleaning of a model, chosen on its own cross-validation.

Every finished fold has predicted cases that it was not trained on; the rules are tried
on these predictions, against the references that people drew. What was chosen lies
with the model, beside its folds, with the means before and after: `predict --clean
tuned` applies it. The cases kept for testing have no part in it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.aligned import aligned, number
from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.files import read_json, sha256_of, write_json
from nnunet_bridge.formats.labels_file import DATASET_FILE, read_label_table
from nnunet_bridge.formats.nifti import read_labelmap
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.models import CLEANING_FILE
from nnunet_bridge.nnunet.names import ON_ALL_CASES, Workspace
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.ops.cleanup import clean_structures
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.ops.tuning import (
    CANDIDATES,
    Trial,
    chosen_rules,
    still_good,
    tried,
)
from nnunet_bridge.pipeline.labels.folders import label_files
from nnunet_bridge.pipeline.models.choose import Model, choose_model

Treatment: TypeAlias = Mapping[str, CleaningRule]
"""Structure -> how it is cleaned."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """What was chosen for one configuration, and on which evidence."""

    file: Path
    """Where it is stored."""

    content: JsonObject
    """What the file holds."""

    def as_json(self) -> JsonObject:
        """Return the entry of `models`."""
        return {**self.content, "file": str(self.file)}

    def as_text(self) -> str:
        """Return the rule of every structure, with the means before and after."""
        cases = sum(len(found) for found in self.content["cases"].values())
        title = (
            f"{self.content['configuration']}: cleaning chosen on {cases} validation "
            f"cases of fold {', '.join(self.content['cases'])}"
        )
        header = ("structure", "dice", "cleaned", "hd95 (mm)", "cleaned", "rule")
        rows = [
            (
                name,
                number(row["dice_before"], 4),
                number(row["dice_after"], 4),
                number(row["hd95_before_mm"], 2),
                number(row["hd95_after_mm"], 2),
                CleaningRule.from_json(row).as_text(),
            )
            for name, row in self.content["structures"].items()
        ]
        return "\n".join([title, aligned(header, rows), f"Stored in {self.file}"])


@dataclass(frozen=True, slots=True)
class TuneSummary:
    """The cleaning of every configuration that was asked for."""

    dataset: str
    models: tuple[TunedModel, ...]
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `clean --tune --json` prints."""
        return {
            "dataset": self.dataset,
            "models": [model.as_json() for model in self.models],
        }

    def as_text(self) -> str:
        """Return a table for each configuration."""
        return "\n\n".join(model.as_text() for model in self.models)


def tune_cleaning(  # noqa: PLR0913 - each is a word of the command
    workspace: Workspace,
    dataset: str,
    *,
    configurations: Sequence[str] = (),
    budget: str | None = None,
    kind: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> TuneSummary:
    """Choose the cleaning of every structure, and store it with the model.

    Parameters
    ----------
    workspace : Workspace
    dataset : str
        Full name.
    configurations : sequence of str
        Each is tuned for itself; by default the one that `predict` would take.
    budget : str, optional
        By default the largest that has finished folds.
    force : bool
        Choose anew even if neither the folds nor the references have changed.
    progress : Progress, optional

    Raises
    ------
    InputError
        If a configuration has no finished numbered fold, or a validation case has no
        reference.
    EnvironmentFault
        If the choice cannot be written.
    """
    wanted = [[name] for name in configurations] or [[]]
    models = [
        choose_model(workspace, dataset, one, budget=budget, kind=kind)
        for one in wanted
    ]
    raw = RawDataset.open(workspace.dataset_dir(dataset))
    return TuneSummary(
        dataset,
        tuple(
            _tuned(raw, model, progress or Silent(), force=force) for model in models
        ),
    )


def tuned_rules(model: Model) -> dict[str, CleaningRule]:
    """Return the rule that was chosen for every structure of a model.

    Raises
    ------
    InputError
        If none were chosen, or for other trainings than those of the model.
    """
    if len(model.configurations) > 1:
        raise InputError(
            f"Cleaning is tuned for one configuration; {model.name} together have "
            "none: ask for one of them, or for another --clean."
        )
    file = _file(model.states[0])
    again = (
        f"nnunet-bridge clean --tune {model.dataset} -c {model.name} "
        f"--budget {model.budget}"
    )
    if not file.is_file():
        raise InputError(
            f"No cleaning was tuned for {model.name} of {model.dataset}: run "
            f"`{again}` first, or ask for another --clean."
        )
    try:
        content = read_json(file)
        checkpoints = dict(content["checkpoints"])
        rules = {
            name: CleaningRule.from_json(row)
            for name, row in content["structures"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged ({error!r}): run `{again}`.") from error
    present = _checkpoints(model.states)
    if not present.items() <= checkpoints.items():
        raise InputError(
            f"The cleaning in {file} was tuned on other trainings than those that "
            f"predict now: run `{again}`."
        )
    return rules


def _tuned(
    raw: RawDataset,
    model: Model,
    progress: Progress,
    *,
    force: bool,
) -> TunedModel:
    """Choose the cleaning of one configuration, unless its evidence is as before."""
    evidence = _Evidence.of(raw, model)
    file = _file(model.states[0])
    facts: JsonObject = {
        "dataset": model.dataset,
        "configuration": model.name,
        "budget": model.budget,
        "software": f"nnunet-bridge {__version__}",
        "labels": list(raw.labels.names),
        "checkpoints": _checkpoints(model.states),
        "inputs_sha256": evidence.sha256(),
    }
    known = {} if force else _known(file)
    if facts.items() <= known.items():
        return TunedModel(file, known)
    final, trials = _choice(evidence, progress, f"tune {model.name}")
    content = {
        **facts,
        "cases": {
            fold: [case.case_id for case in cases]
            for fold, cases in evidence.folds.items()
        },
        "structures": {trial.structure: trial.as_json() for trial in final},
        "tried": {
            name: [trial.as_json() for trial in trials if trial.structure == name]
            for name in raw.labels.names
        },
    }
    write_json(file, content)
    return TunedModel(file, content)


def _choice(
    evidence: _Evidence, progress: Progress, stage: str
) -> tuple[tuple[Trial, ...], tuple[Trial, ...]]:
    """Return the chosen rules at work together, and everything that was tried.

    Each candidate is tried on all structures at once. Since the chosen ones differ
    from structure to structure, they are tried together before they are kept.
    """
    names = evidence.labels.names
    candidates = [dict.fromkeys(names, rule) for rule in CANDIDATES]
    progress.stage(stage, evidence.size)
    before, *after = evidence.scores([{}, *candidates], progress)
    trials = tuple(
        trial
        for scores, rules in zip(after, candidates, strict=True)
        for trial in tried(before, scores, rules)
    )
    rules: Treatment = {}
    kept = chosen_rules(trials)
    while rules != kept:  # each turn gives up a rule, so this ends
        rules = kept
        changes = any(rule != UNCLEANED for rule in rules.values())
        together = evidence.scores([rules], Silent())[0] if changes else before
        final = tried(before, together, rules)
        kept = still_good(final)
    return final, trials


@dataclass(frozen=True, slots=True)
class _CaseFiles:
    """A case that a fold has predicted without having seen it."""

    case_id: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The validation cases of every finished fold."""

    labels: LabelTable
    folds: Mapping[str, Sequence[_CaseFiles]]

    @classmethod
    def of(cls, raw: RawDataset, model: Model) -> _Evidence:
        """Find the predictions of every numbered fold and their references."""
        if not all(state.done for state in model.states):
            raise InputError(
                f"{model.name} was unpacked, and the cases that validated it stayed "
                "where it was trained: there is nothing to tune its cleaning on."
            )
        numbered = [s for s in model.states if s.run.fold != ON_ALL_CASES]
        if not numbered:
            raise InputError(
                f"Fold `{ON_ALL_CASES}` validates nothing, so there is nothing to tune "
                f"the cleaning of {model.name} on: train numbered folds."
            )
        model_dir = model.states[0].run.model_dir
        learnt = read_label_table(model_dir / DATASET_FILE)
        if learnt.names != raw.labels.names:
            raise InputError(
                f"{model.name} has learnt {', '.join(learnt.names)}, but {raw.folder} "
                f"now holds {', '.join(raw.labels.names)}: train it anew."
            )
        return cls(
            raw.labels,
            {
                str(state.run.fold): _cases(state.run.validation_dir, raw)
                for state in numbered
            },
        )

    @property
    def size(self) -> int:
        """Number of cases."""
        return sum(len(cases) for cases in self.folds.values())

    def sha256(self) -> str:
        """Return a hash of all predictions and references."""
        digest = hashlib.sha256()
        for fold, cases in self.folds.items():
            for case in cases:
                hashes = sha256_of(case.prediction), sha256_of(case.reference)
                digest.update(" ".join((fold, case.case_id, *hashes)).encode())
        return digest.hexdigest()

    def scores(
        self, treatments: Sequence[Treatment], progress: Progress
    ) -> list[dict[str, list[BoneScore]]]:
        """Return the scores by fold after every treatment, reading case by case."""
        found: list[dict[str, list[BoneScore]]] = [
            {fold: [] for fold in self.folds} for _ in treatments
        ]
        done = 0
        for fold, cases in self.folds.items():
            for case in cases:
                for scores, new in zip(
                    found, self._scored(case, treatments), strict=True
                ):
                    scores[fold] += new
                done += 1
                progress.advance(done, case.case_id)
        return found

    def _scored(
        self, case: _CaseFiles, treatments: Iterable[Treatment]
    ) -> list[tuple[BoneScore, ...]]:
        """Return the scores of one case after each treatment."""
        prediction = read_labelmap(case.prediction, self.labels)
        reference = read_labelmap(case.reference, self.labels)
        raw = bone_scores(prediction, reference, case_id=case.case_id)
        scores = []
        for treatment in treatments:
            cleaned = clean_structures(prediction, treatment)
            scores.append(
                bone_scores(cleaned.labelmap, reference, case_id=case.case_id)
                if cleaned.changed
                else raw
            )
        return scores


def _cases(validation_dir: Path, raw: RawDataset) -> list[_CaseFiles]:
    """Return the cases that a fold has predicted, each with its reference."""
    cases = [
        _CaseFiles(case_id, file, raw.label_file(case_id, "Tr"))
        for case_id, file in label_files(validation_dir).items()
    ]
    missing = [case.case_id for case in cases if not case.reference.is_file()]
    if missing:
        raise InputError(
            f"{validation_dir} holds predictions without a reference in "
            f"{raw.folder / 'labelsTr'}: {', '.join(missing)}."
        )
    return cases


def _file(state: RunState) -> Path:
    return state.run.model_dir / CLEANING_FILE


def _checkpoints(states: Iterable[RunState]) -> dict[str, str]:
    """Return a hash of the checkpoint of every numbered fold."""
    return {
        str(state.run.fold): sha256_of(state.run.checkpoint_file)
        for state in states
        if state.run.fold != ON_ALL_CASES
    }


def _known(file: Path) -> JsonObject:
    """Return what was chosen before; nothing if it cannot be used."""
    try:
        content = read_json(file)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
