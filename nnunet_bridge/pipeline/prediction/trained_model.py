"""A trained model with its labels, its training data's ranges and cleaning rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nnunet_bridge.core.cleaning import UNCLEANED, CleaningRule
from nnunet_bridge.core.image import Labelmap, LabelTable
from nnunet_bridge.core.quality import TrainingStructures
from nnunet_bridge.core.summary import JsonObject, json_of
from nnunet_bridge.core.words import Rule
from nnunet_bridge.formats.channels import Channels
from nnunet_bridge.formats.files import read_json
from nnunet_bridge.nnunet.dataset import RawDataset
from nnunet_bridge.nnunet.schemas import TrainingRange
from nnunet_bridge.ops.cleanup import clean_structures
from nnunet_bridge.pipeline.models.choose import Model
from nnunet_bridge.pipeline.models.training_range import (
    known_structures,
    training_range,
)
from nnunet_bridge.pipeline.models.tune import tuned_rules

TUNED = "tuned"  # the word of ``--clean`` for the rules that were chosen for the model


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """A model, and what is known of the data that it was trained on."""

    model: Model
    labels: LabelTable
    channels: Channels
    description: bytes  # its ``dataset.json``
    seen: TrainingRange | None
    """Ranges of the training images; None if they are unknown."""

    structures: TrainingStructures | None
    """Ranges of the training labels; None if they are unknown."""

    rules: Mapping[str, CleaningRule]  # the cleaning rule of each structure

    @classmethod
    def of(cls, model: Model, cleaning: str) -> TrainedModel:
        """Read what is known of a model; `cleaning` is a word of ``--clean``.

        Raises an `InputError` if it has no tuned rules.
        """
        model_dir, dataset = model.states[0].run.model_dir, model.dataset
        described = RawDataset.open(model_dir)
        if cleaning == TUNED:
            rules = tuned_rules(model)
        else:
            rules = dict.fromkeys(described.labels.names, CleaningRule(Rule(cleaning)))
        return cls(
            model,
            described.labels,
            Channels.described_by(read_json(model_dir / "dataset.json")),
            (model_dir / "dataset.json").read_bytes(),
            training_range(model_dir, dataset.raw_dir),
            known_structures(dataset, model_dir),
            rules,
        )

    def clean(self, labelmap: Labelmap) -> tuple[Labelmap, JsonObject]:
        """Return the cleaned labelmap, and an account of the changes."""
        rules = self.rules_record()
        if all(rule == UNCLEANED for rule in self.rules.values()):
            return labelmap, {"rule": "none", "rules": rules}
        cleaned = clean_structures(labelmap, self.rules)
        account = json_of(cleaned, "labelmap", "changed")
        return cleaned.labelmap, {**account, "rule": cleaned.rule, "rules": rules}

    def rules_record(self) -> JsonObject:
        """Return the rule of each structure for a record."""
        return {name: rule.as_json() for name, rule in self.rules.items()}
