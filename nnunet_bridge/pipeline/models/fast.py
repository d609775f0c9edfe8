"""What `predict --fast` costs in Dice, measured on the cases that the folds held out.

`select --fast` predicts these cases the fast way and keeps in ``fast.json`` how their
Dice differs from that of the validation, with a hash of every checkpoint. A measurement
counts for a model whose checkpoints it names, whatever else it names: with other
weights, or another step between the windows, it has not been measured.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_bridge.core.errors import InputError
from nnunet_bridge.core.records import from_record
from nnunet_bridge.core.scores import BoneScore
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.words import ALL_CASES
from nnunet_bridge.formats.files import readable_object, write_json
from nnunet_bridge.nnunet.estimates import FAST_STEP
from nnunet_bridge.nnunet.names import Dataset
from nnunet_bridge.pipeline.models.choose import Model, checkpoints_of

FAST_FILE = "fast.json"


@dataclass(frozen=True, slots=True)
class FastLoss:
    """The Dice of the fast way minus that of the exact way."""

    model: str  # such as ``2d+3d_fullres``
    checkpoints: dict[str, str]  # as `choose.checkpoints_of`
    dice_difference: float  # mean over the cases, in a case over its structures
    interval_95: tuple[float, float] | None
    """Bootstrap over patients; None with too few of them."""

    cases: int
    step: float = FAST_STEP

    @classmethod
    def of(
        cls,
        model: str,
        checkpoints: Mapping[str, str],
        exact: Sequence[BoneScore],
        fast: Sequence[BoneScore],
        patients: Mapping[str, str],
    ) -> FastLoss:
        """Compare the scores of the same cases; `patients` maps cases to patients."""
        from nnunet_bridge.ops.outcomes import Outcomes
        from nnunet_bridge.ops.paired import clustered_intervals

        outcomes = Outcomes.of({"exact": exact, "fast": fast})
        table = outcomes.table("dice", ["exact", "fast"], outcomes.structures)
        found = [float(after - before) for before, after in table.values()]
        if not found:
            raise InputError(f"{model} has no validation case with a Dice.")
        intervals = clustered_intervals(found, [patients.get(c, c) for c in table])
        interval = intervals.mean if intervals else None
        mean = float(np.mean(found))
        return cls(model, dict(checkpoints), mean, interval, len(found))

    def as_json(self) -> JsonObject:
        """Return its entry in the file."""
        return json_of(self)

    def as_text(self) -> str:
        """Return a sentence."""
        spread = "too few patients for an interval"
        if self.interval_95:
            low, high = self.interval_95
            spread = f"95 % interval {low:+.4f} to {high:+.4f}"
        return (
            f"--fast changes the mean Dice of {self.model} by "
            f"{self.dice_difference:+.4f} ({spread}), measured on "
            f"{counted(self.cases, 'validation case')}."
        )


def known_losses(dataset: Dataset) -> list[FastLoss]:
    """Return what has been measured with the present step; none if that is damaged."""
    content, _ = readable_object(dataset.record_dir / FAST_FILE)
    try:
        entries = content.get("measured", [])
        found = [from_record(FastLoss, entry, FAST_FILE) for entry in entries]
    except (InputError, TypeError):
        return []
    return [loss for loss in found if loss.step == FAST_STEP]


def keep_loss(dataset: Dataset, loss: FastLoss) -> None:
    """Add a measurement in place of earlier ones of the same runs, or some of them."""
    others = (
        one
        for one in known_losses(dataset)
        if one.model != loss.model or one.checkpoints.keys() - loss.checkpoints.keys()
    )
    entries = [one.as_json() for one in (*others, loss)]
    write_json(dataset.record_dir / FAST_FILE, {"measured": entries})


def loss_sentence(model: Model) -> str:
    """Return what `--fast` costs this model, or how to measure it."""
    states = *model.states, *model.previous
    wanted = checkpoints_of(states).items()
    for loss in known_losses(model.dataset):
        if loss.model == model.name and loss.checkpoints.items() >= wanted:
            return loss.as_text()
    unknown = f"What --fast costs {model.name} in Dice has not been measured"
    runs = [state.run for state in states]
    if not all(s.done for s in states) or any(r.repeat for r in runs):
        return f"{unknown}, and its validation cases are not here."
    if all(run.fold == ALL_CASES for run in runs):
        return f"{unknown}: fold `{ALL_CASES}` has no validation cases."
    more = " --ensembles" if len(model.configurations) > 1 else ""
    command = f"nnunet-bridge select {model.dataset.name} --budget {model.budget}"
    return f"{unknown}: run `{command} --fast{more}`."
