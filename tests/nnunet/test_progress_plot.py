"""When nnU-Net's ``progress.png`` is drawn."""

import gc
import weakref
from types import SimpleNamespace

import pytest

from nnunet_bridge.nnunet.inside.training import PLOT_EVERY_S, plot_progress_rarely

pytestmark = pytest.mark.training


def drawn_epochs(plans_name, seconds_an_epoch, epochs=10):
    """Return the epochs after which a training draws its progress."""
    drawn = []
    trainer = SimpleNamespace(
        logger=SimpleNamespace(plot_progress_png=lambda _: drawn.append(epoch)),
        plans_manager=SimpleNamespace(plans_name=plans_name),
        num_epochs=epochs,
        current_epoch=0,
    )
    now = 0.0
    plot_progress_rarely(trainer, lambda: now)
    for epoch in range(epochs):
        now += seconds_an_epoch
        trainer.current_epoch = epoch
        trainer.logger.plot_progress_png("folder")
    return drawn


def test_long_epochs_are_all_drawn():
    assert drawn_epochs("nnUNetPlans", PLOT_EVERY_S) == list(range(10))


def test_short_epochs_are_drawn_once_a_minute_and_at_the_end():
    assert drawn_epochs("nnUNetPlansQuick", PLOT_EVERY_S / 4) == [0, 4, 8, 9]


def test_a_smoke_test_draws_nothing():
    assert drawn_epochs("nnUNetPlansSmoke", PLOT_EVERY_S) == []


class Figure:
    """Refers to itself, as the figures of matplotlib do after they are closed."""

    def __init__(self):
        self.canvas = self


def test_the_pixels_of_a_drawing_are_freed_before_the_next_epoch():
    figures, trainer = [], SimpleNamespace(num_epochs=1, current_epoch=0)
    draw = lambda _: figures.append(weakref.ref(Figure()))  # noqa: E731
    trainer.logger = SimpleNamespace(plot_progress_png=draw)
    trainer.plans_manager = SimpleNamespace(plans_name="nnUNetPlans")
    plot_progress_rarely(trainer)

    gc.disable()
    try:
        trainer.logger.plot_progress_png("folder")
        assert figures[0]() is None
    finally:
        gc.enable()


def test_S13_no_setting_of_the_current_folder_is_drawn_with(tmp_path, monkeypatch):
    """Matplotlib reads ``matplotlibrc`` there; with `usetex` it starts a program."""
    import matplotlib as mpl

    (tmp_path / "matplotlibrc").write_text("text.usetex: True\n")
    monkeypatch.chdir(tmp_path)
    seen = []
    with mpl.rc_context(fname=mpl.matplotlib_fname()):
        assert mpl.rcParams["text.usetex"]
        trainer = SimpleNamespace(
            logger=SimpleNamespace(
                plot_progress_png=lambda _: seen.append(mpl.rcParams["text.usetex"])
            ),
            plans_manager=SimpleNamespace(plans_name="nnUNetPlans"),
            num_epochs=1,
            current_epoch=0,
        )
        plot_progress_rarely(trainer)
        trainer.logger.plot_progress_png("folder")

    assert seen == [False]
