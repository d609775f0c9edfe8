"""The options of `train`, beside what is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

SEED = 20230601  # seed of every random generator at the start of a training


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """Options of a training, the same here and on a cluster."""

    device: str = "auto"  # ``auto`` takes a GPU if there is one
    gpus: int = 1  # GPUs of each run
    restart: bool = False  # whether to train again from the start, instead of resuming
    probabilities: bool = False
    """Whether validation saves its probabilities, for nnU-Net's choice of ensembles."""

    validate_best: bool = False
    """Whether the best checkpoint is validated, instead of the last one."""

    patience: int | None = None
    """End after so many epochs without a lower validation loss; None leaves it to the
    plans."""

    weights: Path | None = None
    """Initial state dict of a ResNet34 encoder; None for the default."""

    from_scratch: bool = False  # whether such an encoder starts from random weights
    pretrained: str = ""
    """Trained model to start from: a packed file, a checkpoint, or a dataset of the
    workspace with or without a configuration; empty for none."""

    def without_paths(self) -> TrainingOptions:
        """Return the options with names of files instead of their paths."""
        weights = None if self.weights is None else Path(self.weights.name)
        pretrained = Path(self.pretrained).name if self.pretrained else ""
        return replace(self, weights=weights, pretrained=pretrained)

    @property
    def own_arguments(self) -> tuple[str, ...] | None:
        """nnU-Net's own arguments on record; None for those of the run's start."""
        return ("--val_best",) if self.validate_best else None

    def for_nnunet(self) -> tuple[str, ...]:
        """Return the options that nnU-Net has arguments of its own for."""
        return ("--npz",) if self.probabilities else ()

    def words(self) -> tuple[str, ...]:
        """Return the options as words of our command `train`.

        Examples
        --------
        >>> TrainingOptions("cpu").words()
        ('--device', 'cpu', '--gpus', '1', '--resume')
        >>> TrainingOptions("cpu", patience=20, from_scratch=True).words()[-3:]
        ('--patience', '20', '--from-scratch')
        """
        return (
            *("--device", self.device, "--gpus", str(max(self.gpus, 1))),
            "--restart" if self.restart else "--resume",
            *(("--probabilities",) if self.probabilities else ()),
            *(("--validate-best",) if self.validate_best else ()),
            *(() if self.patience is None else ("--patience", str(self.patience))),
            *(() if self.weights is None else ("--weights", str(self.weights))),
            *(("--from-scratch",) if self.from_scratch else ()),
            *(("--pretrained", self.pretrained) if self.pretrained else ()),
        )
