"""Choose the trained model that answers a command, and report why.

`select` keeps its choice in ``choice.json``, with a hash of every checkpoint that it
compared. The choice holds while exactly these are there: a fold trained since, or
trained again, makes it out of date.
"""

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.records import from_record
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.words import ALL_CASES, BudgetName, Fold
from nnunet_bridge.formats.files import readable_object, sha256_of
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, METHODS
from nnunet_bridge.nnunet.names import ALL_NUMBERED, Dataset, trainer_in
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES
from nnunet_bridge.nnunet.runs import RunState, known_runs

CHOICE_FILE = "choice.json"


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """The finished model that a command asks for; what is empty may be any."""

    configurations: tuple[str, ...] = ()
    """By default the one with the higher Dice on its own validation."""

    folds: tuple[str, ...] = ()
    """By default all numbered ones that are done, or fold ``all`` if it is the only
    one."""

    budget: str | None = None
    """By default the longest that has finished runs; a model of others only where
    there is none of ours."""

    kind: str | None = None
    """A word of `--model`, also TRAINER__PLANS; by default nnU-Net's own first."""

    seed: int = 0  # training of each fold: 0 is the first

    def __str__(self) -> str:
        """Return the request in a few words."""
        words = [self.kind or "", *self.configurations]
        words += [f"fold {fold}" for fold in self.folds]
        words += [f"seed {self.seed}"] if self.seed else []
        return " ".join(filter(None, words))


@dataclass(frozen=True, slots=True)
class Model:
    """Finished runs that predict together: folds of one configuration or more."""

    kind: str  # a word of `--model`
    budget: str
    states: tuple[RunState, ...]
    reason: str  # why these and no others
    previous: tuple[RunState, ...] = ()
    """The folds of ``3d_lowres`` that the cascade among them builds upon."""

    trusted: str = ""
    """Trainer of others whose code may run, because the command named it."""

    @property
    def dataset(self) -> Dataset:
        """The dataset that it was trained on."""
        return self.states[0].run.dataset

    @property
    def configurations(self) -> tuple[str, ...]:
        """The configurations whose mean is taken."""
        return tuple(self.members())

    @property
    def name(self) -> str:
        """Short name, such as ``2d`` or ``2d+3d_fullres``."""
        return model_name(self.kind, self.configurations)

    def members(self) -> dict[str, list[RunState]]:
        """Return the folds of every configuration."""
        members: dict[str, list[RunState]] = {}
        for state in self.states:
            members.setdefault(state.run.configuration, []).append(state)
        return members

    def sha256(self) -> str:
        """Return a hash of all its checkpoints."""
        digest = hashlib.sha256()
        for state in (*self.states, *self.previous):
            digest.update(sha256_of(state.run.checkpoint_file).encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Refuse the model if nnU-Net should not be called with it.

        Raises `SecurityError` with the id of the fault, before any of the model has
        run.
        """
        from nnunet_bridge.nnunet.models import check_model_folder, require_trusted

        folders: dict[Path, list[Fold]] = {}
        for run in (state.run for state in (*self.states, *self.previous)):
            require_trusted(run.trainer, run.plans, self.trusted)
            folders.setdefault(run.model_dir, []).append(run.fold)
        for model_dir, folds in folders.items():
            check_model_folder(model_dir, folds, self.trusted)


def model_name(kind: str, configurations: Sequence[str]) -> str:
    """Return the short name of some configurations of a model.

    Examples
    --------
    >>> model_name("nnunet", ["2d", "3d_fullres"])
    '2d+3d_fullres'
    """
    name = "+".join(configurations)
    return name if kind == DEFAULT_MODEL else f"{kind} {name}"


def predicting_model(dataset: Dataset, request: ModelRequest | None = None) -> Model:
    """Return the model that predicts: the choice of `select`, unless more is asked."""
    request = request or ModelRequest()
    if request.configurations or request.kind:
        return choose_model(dataset, request)
    kept, remark = current_choice(dataset, request.budget)
    if kept is None:
        model = choose_model(dataset, request)
        return replace(model, reason=f"{model.reason} ({remark})") if remark else model
    asked = replace(kept, folds=request.folds, seed=request.seed)
    model = replace(choose_model(dataset, asked), trusted="")  # no person named it
    used = f"{model.name}, fold {_folds_of(model.states)}"
    return replace(model, reason=f"{used}, the choice of `select`: {remark}")


def choose_model(dataset: Dataset, request: ModelRequest | None = None) -> Model:
    """Return the finished model that a command asks for; an `InputError` if none."""
    request = request or ModelRequest()
    known = [state for state in known_runs(dataset) if state.can_predict]
    done = [state for state in known if state.run.repeat == request.seed]
    if request.kind:
        done = [state for state in done if state.is_called(request.kind)]
    for kind, budget in _candidates(done, request):
        able = [s for s in done if (s.model, s.budget) == (kind, budget)]
        able = _of_folds(able, request.folds)
        wanted = request.configurations or _best_configuration(able)
        if able and all(any(s.run.configuration == c for s in able) for c in wanted):
            states = tuple(s for s in able if s.run.configuration in wanted)
            used = dict.fromkeys(state.run.configuration for state in states)
            name = model_name(kind, list(used))
            best = "which has the higher Dice on its own validation"
            how = "as requested" if request.configurations else best
            reason = f"{name}, {how}, fold {_folds_of(states)}"
            first, trusted = first_stages(states, done), trainer_in(request.kind or "")
            return Model(kind, budget, states, reason, first, trusted)
    raise InputError(
        " ".join(filter(None, [f"{dataset} has no finished model", str(request)]))
        + (f" of the budget {request.budget}" if request.budget else "")
        + ": train one first (`nnunet-bridge status` lists all runs)."
    )


def first_stages(
    states: Sequence[RunState], done: Sequence[RunState]
) -> tuple[RunState, ...]:
    """Return the finished folds of ``3d_lowres`` that the cascade needs."""
    previous, missing = [], []
    for state in states:
        if state.run.configuration != CASCADE:
            continue
        first = replace(state.run, configuration=LOWRES)
        found = [other for other in done if other.run == first]
        previous += found
        missing += [] if found else [str(state.run.fold)]
    if missing:
        raise InputError(
            f"{CASCADE} builds upon {LOWRES}, of which fold {', '.join(missing)} is "
            f"missing: train `-c {LOWRES}`, or unpack that model too."
        )
    return tuple(previous)


def _candidates(
    done: Sequence[RunState], request: ModelRequest
) -> list[tuple[str, str]]:
    """Return the kinds and budgets that may answer, the first choice first."""
    models = list(dict.fromkeys(model for model, _ in METHODS))
    ours = [(model, str(name)) for name in BudgetName for model in models]
    others = {(s.model, str(s.budget)) for s in done} - set(ours)
    lengths = [str(name) for name in BudgetName]
    others_in_order = sorted(others, key=lambda one: (lengths.index(one[1]), one[0]))
    every = [*ours, *others_in_order]
    return [(kind, b) for kind, b in every if request.budget in (None, b)]


def _of_folds(states: Sequence[RunState], folds: Sequence[str]) -> list[RunState]:
    """Return the states of the folds asked for."""
    numbered = [state for state in states if state.run.fold != ALL_CASES]
    if not folds:
        return numbered or list(states)
    chosen = [state for state in states if str(state.run.fold) in folds]
    if ALL_NUMBERED in folds:
        chosen = [state for state in states if state in numbered or state in chosen]
    return chosen


def _best_configuration(states: Sequence[RunState]) -> list[str]:
    means: dict[str, list[float]] = {}
    for state in states:
        means.setdefault(state.run.configuration, []).append(state.mean_dice or 0.0)
    return sorted(means, key=lambda name: -sum(means[name]) / len(means[name]))[:1]


def _folds_of(states: Sequence[RunState]) -> str:
    folds = ", ".join(sorted({str(state.run.fold) for state in states}))
    seed = states[0].run.repeat
    return f"{folds}, seed {seed}" if seed else folds


@dataclass(frozen=True, slots=True)
class _Chosen:
    model: str
    configurations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ChoiceRecord:
    """The fields of ``choice.json`` that decide."""

    budget: str
    chosen: _Chosen
    reason: str
    checkpoints: dict[str, str]


def choice_file(dataset: Dataset) -> Path:
    """Return the file of the choice of a dataset."""
    return dataset.record_dir / CHOICE_FILE


def current_choice(
    dataset: Dataset, budget: str | None = None
) -> tuple[ModelRequest | None, str]:
    """Return what `select` chose, as a request, and why; or None and why not.

    The reason is empty where there is no choice for this budget.
    """
    content, damage = readable_object(choice_file(dataset))
    if not content or damage:
        return None, damage
    try:
        record = from_record(ChoiceRecord, content, CHOICE_FILE)
    except InputError as error:
        return None, str(error)
    states = selectable_runs(known_runs(dataset), budget)
    if not states or record.budget != states[0].budget:
        return None, ""
    if record.checkpoints != checkpoints_of(states):
        return None, "the choice is out of date: run `select` again"
    words = record.chosen.configurations, (), record.budget, record.chosen.model
    return ModelRequest(*words), record.reason


def selectable_runs(
    states: Sequence[RunState], budget: str | None = None
) -> list[RunState]:
    """Return the numbered folds that are done, of one budget.

    Without a budget, of the longest that has some.
    """
    first = [state for state in states if not state.run.repeat]
    done = [s for s in first if s.done and s.run.fold != ALL_CASES]
    for name in BudgetName:
        found = [s for s in done if s.budget == name]
        if found and budget in (None, name):
            return found
    return []


def checkpoints_of(states: Sequence[RunState]) -> JsonObject:
    """Return a hash of every checkpoint, by the folder that holds it."""
    return {
        f"{run.model_dir.name}/fold_{run.fold}": fingerprint(run.checkpoint_file)
        for run in (state.run for state in states)
    }


def fingerprint(checkpoint: Path) -> str:
    """Return a hash of a checkpoint by the checksums of its parts, without reading it.

    A checkpoint is a zip, whose directory holds a CRC-32 and the size of every tensor:
    enough to notice another training, and a thousandth of the reading.
    """
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            parts = [(p.filename, p.CRC, p.file_size) for p in archive.infolist()]
    except (OSError, zipfile.BadZipFile):
        return sha256_of(checkpoint) if checkpoint.is_file() else ""
    return hashlib.sha256(repr(sorted(parts)).encode()).hexdigest()
