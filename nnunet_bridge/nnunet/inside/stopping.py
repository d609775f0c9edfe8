"""Early stopping for every trainer: `--patience N`.

A training ends when the validation loss has not fallen for so many epochs. nnU-Net
keeps the losses in every checkpoint, so a resumed training continues to count.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from nnunet_bridge.nnunet.inside.events import EventWriter


class EarlyStop(Exception):  # noqa: N818 - it is no error
    """Leaves nnU-Net's loop over the epochs."""


def stop_early(trainer: Any, patience: int, events: EventWriter | None) -> None:  # noqa: ANN401 - nnU-Net's types
    """End a training after `patience` epochs without a lower validation loss.

    The last checkpoint and the validation follow as after the last epoch.
    """
    begin, end_epoch = trainer.on_train_start, trainer.on_epoch_end
    run = trainer.run_training

    def check() -> None:
        losses = trainer.logger.get_value("val_losses", step=None)
        if epochs_without_progress(losses) >= patience:
            raise EarlyStop

    def begin_and_check() -> None:
        begin()
        check()

    def end_epoch_and_check() -> None:
        end_epoch()
        if trainer.current_epoch < trainer.num_epochs:
            check()

    def run_until_stop() -> None:
        try:
            run()
        except EarlyStop:
            _report(trainer, patience, events)
            trainer.on_train_end()

    trainer.on_train_start = begin_and_check
    trainer.on_epoch_end = end_epoch_and_check
    trainer.run_training = run_until_stop


def _report(trainer: Any, patience: int, events: EventWriter | None) -> None:  # noqa: ANN401 - nnU-Net's types
    """Write to the events and to nnU-Net's log that the training ends."""
    losses = trainer.logger.get_value("val_losses", step=None)
    best = len(losses) - 1 - epochs_without_progress(losses)
    last = trainer.current_epoch - 1
    if events is not None:
        events.write("stopped_early", epoch=last, best_epoch=best, patience=patience)
    trainer.print_to_log_file(
        f"No lower validation loss for {patience} epochs: training ends early."
    )


def epochs_without_progress(losses: Sequence[float]) -> int:
    """Return how many epochs ago the validation loss was lowest; 0 for the last.

    Of equal losses the first counts. A loss that is not a number is no progress.

    Examples
    --------
    >>> epochs_without_progress([0.9, 0.5, 0.5, 0.6]), epochs_without_progress([])
    (2, 0)
    """
    lowest, at = math.inf, 0
    for epoch, loss in enumerate(losses):
        if loss < lowest:
            lowest, at = loss, epoch
    return max(len(losses) - 1 - at, 0)
