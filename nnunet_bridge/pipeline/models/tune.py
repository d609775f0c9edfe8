"""The cleaning rules of a model, chosen on its own cross-validation.

Every finished fold has predicted cases that it was not trained on. The rules are tried
on these predictions, against their reference segmentations; test cases take no part.
The chosen rules are stored with the model, beside its folds, with the means before and
after: `predict --clean tuned` applies them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.image import LabelTable
from nnunet_bridge.core.progress import Progress, Silent
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import aligned, number
from nnunet_bridge.core.version import __version__
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.files import readable_object, sha256_of
from nnunet_bridge.formats.images import read_labelmap
from nnunet_bridge.formats.kept import Kept, holds
from nnunet_bridge.formats.labels_file import DATASET_FILE, read_label_table
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL
from nnunet_bridge.nnunet.models import CLEANING_FILE
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.ops.cleanup import clean_structures
from nnunet_bridge.ops.metrics import bone_scores
from nnunet_bridge.ops.tuning import (
    CANDIDATES,
    Trial,
    chosen_rules,
    nested_changes,
    still_good,
    tried,
)
from nnunet_bridge.pipeline.labels.folders import label_files
from nnunet_bridge.pipeline.models.choose import Model, ModelRequest, choose_model

Treatment: TypeAlias = Mapping[str, CleaningRule]  # structure -> its cleaning rule
Choose: TypeAlias = Callable[[Sequence[Trial]], Mapping[str, CleaningRule]]

OPTIMISTIC = (
    "The means after cleaning are optimistic, because the same cases chose the rules. "
    "Nested means are unbiased: each fold is cleaned by what the other folds choose."
)

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
_MEANS = {"dice_before": 4, "dice_after": 4, "hd95_before_mm": 2, "hd95_after_mm": 2}
"""Key of a mean -> the digits that are shown."""


@dataclass(frozen=True, slots=True)
class TunedModel:
    """The rules chosen for one configuration, and their evidence."""

    file: Path
    content: JsonObject  # the content of the file

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
        rows = []
        for name, row in self.content["structures"].items():
            means = [number(row[key], digits) for key, digits in _MEANS.items()]
            rows.append((name, *means, CleaningRule.from_json(row).as_text()))
        lines = [title, aligned(header, rows), OPTIMISTIC]
        for name, change in self.content.get("nested", {}).items():
            means = [number(change[key], digits) for key, digits in _MEANS.items()]
            dice, cleaned, hd95, cleaned_hd95 = means
            lines.append(
                f"Nested, {name}: Dice {dice} -> {cleaned}, HD95 {hd95} -> "
                f"{cleaned_hd95} mm"
            )
        return "\n".join([*lines, f"Stored in {self.file}"])


@dataclass(frozen=True, slots=True)
class TuneSummary:
    """The cleaning rules of every configuration that was tuned."""

    dataset: str
    models: tuple[TunedModel, ...]
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return the object that `clean --tune --json` prints."""
        return json_of(self, "exit_code")

    def as_text(self) -> str:
        """Return a table for each configuration."""
        return "\n\n".join(model.as_text() for model in self.models)


def tune_cleaning(
    dataset: Dataset,
    request: ModelRequest | None = None,
    *,
    force: bool = False,
    progress: Progress | None = None,
    choose: Choose = chosen_rules,
) -> TuneSummary:
    """Choose the cleaning rule of every structure, and store it with the model.

    Each configuration is tuned for itself; by default the one with the higher Dice.
    With `force`, even if neither the folds nor the references have changed.

    Raises
    ------
    InputError
        If a configuration has no finished numbered fold, or a validation case has no
        reference.
    EnvironmentFault
        If the choice cannot be written.
    """
    request = request or ModelRequest()
    each = [replace(request, configurations=(c,)) for c in request.configurations]
    models = [choose_model(dataset, one) for one in each or [request]]
    raw, shown = RawDataset.open(dataset.raw_dir), progress or Silent()
    tuned = []
    for model in models:
        evidence = _Evidence.of(raw, model)
        kept = _kept_rules(model, evidence)
        content = None if force else kept.load()
        if content is None:
            shown.stage(f"tune {model.name}", evidence.size)
            content = kept.save(_chosen_content(evidence, choose, shown))
        tuned.append(TunedModel(kept.file, content))
    return TuneSummary(dataset.name, tuple(tuned))


def tuned_rules(model: Model) -> dict[str, CleaningRule]:
    """Return the rule that was chosen for every structure of a model.

    Raises `InputError` if none were chosen, or for other runs than those of the model.
    """
    if len(model.configurations) > 1:
        raise InputError(
            f"Cleaning is tuned for one configuration, not for the mean {model.name}: "
            "use one configuration, or another --clean."
        )
    file = _file(model.states[0])
    way_out = _way_out(model)
    if not file.is_file():
        raise InputError(
            f"No cleaning was tuned for {model.name} of {model.dataset}: {way_out}"
        )
    content, _ = readable_object(file)
    try:
        checkpoints, rows = dict(content["checkpoints"]), content["structures"].items()
        rules = {name: CleaningRule.from_json(row) for name, row in rows}
    except _MALFORMED as error:
        raise InputError(f"{file} is damaged: {way_out}") from error
    if not holds(checkpoints, _checkpoints(model.states)):
        raise InputError(
            f"The cleaning in {file} was tuned on other runs than those that predict "
            f"now: {way_out}"
        )
    return rules


def tune_command(model: Model) -> str:
    """Return the command that tunes the cleaning of a model."""
    words = ["nnunet-bridge clean --tune", model.dataset.name]
    words += [word for name in model.configurations for word in ("-c", name)]
    if model.kind != DEFAULT_MODEL:
        words += ["--model", model.kind]
    return " ".join([*words, "--budget", model.budget])


def _way_out(model: Model) -> str:
    """Return the way out of rules that are missing or out of date."""
    if not all(state.done for state in model.states):
        return "its validation cases stayed where it was trained; use another --clean."
    return f"run `{tune_command(model)}`, or use another --clean."


def _kept_rules(model: Model, evidence: _Evidence) -> Kept:
    """Return the file of the chosen rules, and what they were chosen from."""
    facts: JsonObject = {
        "dataset": model.dataset.name,
        "configuration": model.name,
        "budget": model.budget,
        "software": f"nnunet-bridge {__version__}",
        "labels": list(evidence.labels.names),
        "checkpoints": _checkpoints(model.states),
        "inputs_sha256": evidence.sha256(),
    }
    return Kept(_file(model.states[0]), facts)


def _chosen_content(
    evidence: _Evidence, choose: Choose, progress: Progress
) -> JsonObject:
    """Choose the rules; return what the file holds beside the facts.

    Each candidate is tried on all structures at once. Since the chosen ones differ
    from structure to structure, they are tried together before they are kept.
    """
    names = evidence.labels.names
    candidates = [dict.fromkeys(names, rule) for rule in CANDIDATES]
    before, *after = evidence.scores([{}, *candidates], progress)
    trials = tuple(
        trial
        for scores, rules in zip(after, candidates, strict=True)
        for trial in tried(before, scores, rules)
    )
    rules: Treatment = {}
    kept = choose(trials)
    # Rules chosen one by one may spoil one another: where two labels touch, cleaning
    # one changes the other. So all of them are tried together, those that are no longer
    # good are dropped, and the rest is tried again. Each turn drops at least one rule,
    # or drops none and ends the loop.
    while rules != kept:
        rules = kept
        changes = any(rule != UNCLEANED for rule in rules.values())
        together = evidence.scores([rules], Silent())[0] if changes else before
        final = tried(before, together, rules)
        kept = still_good(final)
    tried_on = {
        name: [trial.as_json() for trial in trials if trial.structure == name]
        for name in names
    }
    return {
        "cases": {fold: [c.case_id for c in cs] for fold, cs in evidence.folds.items()},
        "structures": {trial.structure: trial.as_json() for trial in final},
        "tried": tried_on,
        "optimistic": True,
        "nested": {
            name: asdict(change)
            for name, change in nested_changes(before, after, candidates).items()
        },
    }


@dataclass(frozen=True, slots=True)
class _CaseFiles:
    """A case that a fold has predicted and was not trained on."""

    case_id: str
    prediction: Path
    reference: Path


@dataclass(frozen=True, slots=True)
class _Evidence:
    """The validation predictions of every finished fold, with their references."""

    labels: LabelTable
    folds: Mapping[str, Sequence[_CaseFiles]]

    @classmethod
    def of(cls, raw: RawDataset, model: Model) -> _Evidence:
        """Find the predictions of every numbered fold and their references."""
        if not all(state.done for state in model.states):
            raise InputError(
                f"{model.name} was unpacked, and its validation cases stayed where it "
                "was trained: its cleaning cannot be tuned here."
            )
        numbered = [s for s in model.states if s.run.fold != ALL_CASES]
        if not numbered:
            raise InputError(
                f"Fold `{ALL_CASES}` has no held-out cases, so the cleaning of "
                f"{model.name} cannot be tuned: train numbered folds."
            )
        labels = read_label_table(model.states[0].run.model_dir / DATASET_FILE)
        if labels.names != raw.labels.names:
            raise InputError(
                f"{model.name} was trained on {', '.join(labels.names)}, but "
                f"{raw.folder} now holds {', '.join(raw.labels.names)}: train it again."
            )
        folders = {str(state.run.fold): state.run.validation_dir for state in numbered}
        folds = {fold: _cases(folder, raw) for fold, folder in folders.items()}
        return cls(raw.labels, folds)

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
        every = [(fold, case) for fold, cases in self.folds.items() for case in cases]
        for done, (fold, case) in enumerate(every, start=1):
            each = self._scored(case, treatments)
            for scores, new in zip(found, each, strict=True):
                scores[fold] += new
            progress.advance(done, case.case_id)
        return found

    def _scored(
        self, case: _CaseFiles, treatments: Iterable[Treatment]
    ) -> list[tuple[BoneScore, ...]]:
        """Return the scores of one case after each treatment."""
        prediction = read_labelmap(case.prediction, self.labels)
        reference = read_labelmap(case.reference, self.labels)
        score = partial(bone_scores, reference=reference, case_id=case.case_id)
        raw = score(prediction)
        each = (clean_structures(prediction, treatment) for treatment in treatments)
        return [score(one.labelmap) if one.changed else raw for one in each]


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
        if state.run.fold != ALL_CASES
    }
