"""Which trained model answers: chosen from what has finished, and said aloud."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.words import FOREIGN
from nnunet_bridge.formats.files import sha256_of
from nnunet_bridge.nnunet.methods import DEFAULT_MODEL, METHODS
from nnunet_bridge.nnunet.models import check_model_folder
from nnunet_bridge.nnunet.names import (
    ALL_NUMBERED,
    ON_ALL_CASES,
    Dataset,
    Workspace,
)
from nnunet_bridge.nnunet.plans import CASCADE, LOWRES
from nnunet_bridge.nnunet.runs import RunState, known_runs
from nnunet_bridge.pipeline.models.selection import current_choice


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Which of the finished models of a dataset to take; see `predicting_model`."""

    configurations: tuple[str, ...] = ()
    """Several are averaged; by default the choice of `select`, or the best one."""

    folds: tuple[str, ...] = ()
    """By default all that have finished."""

    budget: str | None = None
    """By default the longest that has finished."""

    kind: str | None = None
    """As in ``--model``; by default nnU-Net's own, if it has finished."""


@dataclass(frozen=True, slots=True)
class Model:
    """Finished trainings that predict together: folds of one configuration or more."""

    dataset: str
    kind: str
    """As `--model` calls it."""

    budget: str
    states: tuple[RunState, ...]
    reason: str
    """Why these and no others."""

    previous: tuple[RunState, ...] = ()
    """The folds of ``3d_lowres`` that the cascade among them builds upon."""

    @property
    def configurations(self) -> tuple[str, ...]:
        """The configurations whose mean is taken."""
        return tuple(dict.fromkeys(state.run.configuration for state in self.states))

    @property
    def name(self) -> str:
        """Short name, such as ``2d`` or ``2d+3d_fullres``."""
        return model_name(self.kind, self.configurations)

    def members(self) -> dict[str, list[RunState]]:
        """Return the folds of every configuration."""
        return {
            configuration: [
                s for s in self.states if s.run.configuration == configuration
            ]
            for configuration in self.configurations
        }

    def sha256(self) -> str:
        """Return a hash of all its checkpoints."""
        digest = hashlib.sha256()
        for state in (*self.states, *self.previous):
            digest.update(sha256_of(state.run.checkpoint_file).encode())
        return digest.hexdigest()

    def check(self) -> None:
        """Refuse the model if nnU-Net should not be called with it.

        Raises
        ------
        SecurityError
            With the id of the fault, before any of the model has run.
        """
        first = {LOWRES: self.previous} if self.previous else {}
        for states in (*self.members().values(), *first.values()):
            check_model_folder(states[0].run.model_dir, [s.run.fold for s in states])


def model_name(kind: str, configurations: Sequence[str]) -> str:
    """Return how people call some configurations of a model.

    Examples
    --------
    >>> model_name("nnunet", ["2d", "3d_fullres"])
    '2d+3d_fullres'
    """
    name = "+".join(configurations)
    return name if kind in (DEFAULT_MODEL, FOREIGN) else f"{kind} {name}"


def predicting_model(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
    budget: str | None = None,
    *,
    kind: str | None = None,
) -> Model:
    """Return the model that predicts: what `select` chose, unless more is said.

    Raises
    ------
    InputError
        As `choose_model`.
    """
    if configurations or kind:
        return choose_model(
            workspace, dataset, configurations, folds, budget, kind=kind
        )
    kept, remark = current_choice(workspace, dataset, budget)
    if kept is None:
        model = choose_model(workspace, dataset, (), folds, budget)
        reason = f"{model.reason} ({remark})" if remark else model.reason
        return replace(model, reason=reason)
    model = choose_model(
        *(workspace, dataset, kept.configurations, folds, kept.budget), kind=kept.model
    )
    used = ", ".join(sorted({str(state.run.fold) for state in model.states}))
    return replace(
        model, reason=f"{model.name}, fold {used}, which `select` chose: {kept.reason}"
    )


def choose_model(
    workspace: Workspace,
    dataset: str,
    configurations: Sequence[str] = (),
    folds: Sequence[str] = (),
    budget: str | None = None,
    *,
    kind: str | None = None,
) -> Model:
    """Return the model that the words of a command mean.

    Without configurations, the one with the higher Dice on its own validation; without
    a budget, the largest that has finished runs, and a model from elsewhere with other
    plans only where there is none; without a kind (as `--model` calls it), nnU-Net's
    own before others; without folds, all numbered ones that are done, or fold ``all``
    where there is no other.

    Raises
    ------
    InputError
        If nothing that was asked for has finished.
    """
    done = [
        state for state in known_runs(Dataset(workspace, dataset)) if state.can_predict
    ]
    for one, name in _candidates(done, kind, budget):
        able = [s for s in done if (s.model, s.budget) == (one, name)]
        able = _of_folds(able, folds)
        wanted = configurations or _best_configuration(able)
        if able and all(any(s.run.configuration == c for s in able) for c in wanted):
            states = tuple(s for s in able if s.run.configuration in wanted)
            reason = _reason(states, asked=configurations)
            previous = _first_stages(states, done)
            return Model(dataset, one, name, states, reason, previous)
    words = [*([kind] if kind else []), *configurations]
    asked = " ".join(["", *words, *(f"fold {fold}" for fold in folds)])
    raise InputError(
        f"{dataset} has no finished model{asked}"
        + (f" of the budget {budget}" if budget else "")
        + ": train one first (`nnunet-bridge status` shows what there is)."
    )


def _first_stages(
    states: Sequence[RunState], done: Sequence[RunState]
) -> tuple[RunState, ...]:
    """Return the finished folds of ``3d_lowres`` that the cascade needs.

    Raises
    ------
    InputError
        If one of them is not there.
    """
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
            f"not here: train `-c {LOWRES}`, or unpack that model too."
        )
    return tuple(previous)


def _candidates(
    done: Sequence[RunState], kind: str | None, budget: str | None
) -> list[tuple[str, str]]:
    """Return the kinds and budgets that may answer, the first choice first."""
    models = list(dict.fromkeys(model for model, _ in METHODS))
    budgets = list(dict.fromkeys(name for _, name in METHODS))
    ours = [(model, name) for name in budgets for model in models]
    others = sorted({(s.model, s.budget) for s in done} - set(ours))
    return [
        (one, name)
        for one, name in [*ours, *others]
        if kind in (None, one) and budget in (None, name)
    ]


def _of_folds(states: Sequence[RunState], folds: Sequence[str]) -> list[RunState]:
    """Return the states of the folds asked for."""
    numbered = [state for state in states if state.run.fold != ON_ALL_CASES]
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


def _reason(states: Sequence[RunState], *, asked: Sequence[str]) -> str:
    folds = ", ".join(sorted({str(state.run.fold) for state in states}))
    name = "+".join(dict.fromkeys(state.run.configuration for state in states))
    if asked:
        return f"{name}, as asked, fold {folds}"
    return f"{name}, which has the higher Dice on its own validation, fold {folds}"
