"""The end of a training before its last epoch, for every trainer.

`--patience N`: a training ends when the validation loss has not fallen for so many
epochs. nnU-Net keeps the losses in every checkpoint, so a resumed training continues to
count. A training without a loss fails.
"""

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


def stop_without_loss(trainer: Any) -> None:  # noqa: ANN401 - nnU-Net's types
    """Let a training fail if no step of an epoch had a loss.

    Single steps without one are usual in half precision, and their updates are skipped;
    after a whole epoch of them the weights are lost. The last checkpoint is older.
    """
    end = trainer.on_train_epoch_end

    def end_or_fail(outputs: Sequence[dict[str, Any]]) -> None:
        if not any(math.isfinite(float(step["loss"])) for step in outputs):
            epoch = trainer.current_epoch
            raise FloatingPointError(f"the loss was not a number in epoch {epoch}")
        end(outputs)

    trainer.on_train_epoch_end = end_or_fail


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
