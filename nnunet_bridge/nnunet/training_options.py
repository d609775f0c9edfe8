"""How a training is carried out, beside what is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

SEED = 20230601
"""Of every random generator of a training, at its start."""


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """The options of `train`, the same here and on a cluster."""

    device: str = "auto"
    """``auto`` takes a GPU if there is one."""

    gpus: int = 1
    """Of each run."""

    restart: bool = False
    """Whether to train anew what is begun or done."""

    probabilities: bool = False
    """Whether validation keeps its probabilities, which nnU-Net's ensembles need."""

    own_arguments: tuple[str, ...] | None = None
    """nnU-Net's own, as `own_arguments.TRAINING` checked them; by default those that a
    run began with."""

    patience: int | None = None
    """End after so many epochs without a lower validation loss; None leaves it to the
    plans."""

    weights: Path | None = None
    """State dict that a ResNet34's encoder begins with; None for none given."""

    from_scratch: bool = False
    """Whether such an encoder begins at random."""

    pretrained: str = ""
    """A trained model to begin with: a packed file, or a dataset of the workspace with
    a configuration or without; empty for none."""

    def without_paths(self) -> TrainingOptions:
        """Return them with the names of files in place of their paths."""
        weights = None if self.weights is None else Path(self.weights.name)
        pretrained = Path(self.pretrained).name if self.pretrained else ""
        return replace(self, weights=weights, pretrained=pretrained)

    def for_nnunet(self) -> tuple[str, ...]:
        """Return those that nnU-Net has words of its own for."""
        return ("--npz",) if self.probabilities else ()

    def words(self) -> tuple[str, ...]:
        """Return them as words of our own command `train`.

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
            *(() if self.patience is None else ("--patience", str(self.patience))),
            *(() if self.weights is None else ("--weights", str(self.weights))),
            *(("--from-scratch",) if self.from_scratch else ()),
            *(("--pretrained", self.pretrained) if self.pretrained else ()),
            *(("--", *self.own_arguments) if self.own_arguments else ()),
        )
