"""The table of trainings holds the same for every terminal, in as much as fits."""

from pathlib import Path

import pytest
from tiny_model import NOWHERE

from nnunet_bridge.formats.events import Course
from nnunet_bridge.nnunet.methods import method_of
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.pipeline.training.status import run_table

SMOKE = method_of("nnunet", "smoke")


def run(configuration, fold, state, **known):
    found = SMOKE.run(Dataset(NOWHERE, "Dataset001_Leg"), configuration, fold)
    return RunState(found, state, Path("fold"), **known)


RUNNING = Course(
    epochs_done=12,
    epochs=20,
    train_loss=-0.812,
    val_loss=-0.745,
    dice={"tibia": 0.91, "femur": 0.882},
    seconds=79.2,
    seconds_per_epoch=6.6,
)
STATES = [
    run("2d", 0, "done", course=RUNNING, mean_dice=0.8405),
    run("2d", 1, "running", course=RUNNING),
    run("3d_fullres", 0, "queued"),
]


def rows(text):
    lines = text.splitlines()
    return [lines[0].split(), *(line.split() for line in lines[1:4])]


def test_every_run_has_one_line_with_all_that_is_known_of_it():
    text = run_table(STATES)

    _, done, running, queued = rows(text)
    assert running == [
        *("2d", "1", "smoke", "running", "12/20", "-0.812", "-0.745"),
        *("0.91", "0.88", "6.6", "0:53", "-"),
    ]
    assert done[-2:] == ["-", "0.841"]
    assert queued == ["3d_fullres", "0", "smoke", "queued", "0/?", *"------"]
    assert text.splitlines()[-1] == "pseudo-Dice of tibia, femur"


@pytest.mark.parametrize("width", [72, 80, 100, 120])
def test_no_line_is_wider_than_the_terminal(width):
    text = run_table(STATES, width)

    assert max(map(len, text.splitlines())) <= width
    for word in ("configuration", "fold", "state", "epoch", "pseudo-Dice", "left"):
        assert word in rows(text)[0]


def test_a_narrow_terminal_gets_the_mean_over_the_structures():
    assert "0.90" in run_table(STATES, 80)
    assert "0.91 0.88" not in run_table(STATES, 80)


def test_the_model_is_a_column_only_where_there_is_another_than_nnunets_own():
    theirs = Run(
        Dataset(NOWHERE, "Dataset001_Leg"), "2d", 0, "TheirTrainer", "TheirPlans"
    )
    foreign = RunState(theirs, "unpacked", Path("fold"))

    assert "model" not in rows(run_table(STATES))[0]
    assert rows(run_table([*STATES[:2], foreign]))[0][0] == "model"
