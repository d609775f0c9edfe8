"""How a training is carried out, beside what is trained."""

from __future__ import annotations

from dataclasses import dataclass

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

    def words(self) -> tuple[str, ...]:
        """Return them as words of our own command `train`.

        Examples
        --------
        >>> TrainingOptions("cpu").words()
        ('--device', 'cpu', '--gpus', '1', '--resume')
        """
        return (
            *("--device", self.device, "--gpus", str(max(self.gpus, 1))),
            "--restart" if self.restart else "--resume",
            *(("--probabilities",) if self.probabilities else ()),
        )
