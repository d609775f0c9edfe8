"""nnU-Net's own arguments after ``--``: those that make sense, and no others."""

import pytest

from nnunet_bridge.core.errors import UsageError
from nnunet_bridge.nnunet.own_arguments import PLANNING, TRAINING
from nnunet_bridge.nnunet.training_options import TrainingOptions


def test_the_same_wishes_read_the_same_in_any_order():
    words = ["-overwrite_target_spacing", "1", "0.50", "2", "-gpu_memory_target", "16"]

    assert PLANNING.checked(words) == PLANNING.checked([*words[4:], *words[:4]])
    assert PLANNING.checked(words)[:2] == ("-gpu_memory_target", "16")
    assert PLANNING.value_of(words, "-overwrite_target_spacing") == ("1", "0.50", "2")


@pytest.mark.parametrize("word", sorted(PLANNING.refused))
def test_planning_refuses_by_name_what_a_word_of_ours_decides(word):
    with pytest.raises(UsageError, match=rf"{word} is refused: ") as caught:
        PLANNING.checked([word])

    assert caught.value.exit_code == 2


@pytest.mark.parametrize("word", sorted(TRAINING.refused))
def test_training_refuses_by_name_what_a_word_of_ours_decides(word):
    with pytest.raises(UsageError, match=rf"{word} is refused: "):
        TRAINING.checked([word])


def test_every_mistake_is_told_at_once_and_a_refused_word_takes_its_values_along():
    words = ["-np", "4", "--foo", "-overwrite_target_spacing", "1", "-2", "nan"]

    with pytest.raises(UsageError) as caught:
        PLANNING.checked(words)

    faults = str(caught.value).splitlines()[1:]
    assert [fault.split()[0] for fault in faults] == [
        *("-np", "--foo", "-overwrite_target_spacing")
    ]


def test_weights_to_begin_with_must_be_there(tmp_path, monkeypatch):
    (tmp_path / "weights.pth").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)

    checked = TRAINING.checked(["-pretrained_weights", "weights.pth", "--npz"])

    assert checked == ("--npz", "-pretrained_weights", str(tmp_path / "weights.pth"))
    with pytest.raises(UsageError, match="needs the path of a file that is there"):
        TRAINING.checked(["-pretrained_weights", "elsewhere.pth"])


def test_they_travel_to_a_cluster_as_words_of_our_own_command():
    options = TrainingOptions("cpu", own_arguments=("--npz", "--val_best"))

    assert options.words()[-3:] == ("--", "--npz", "--val_best")
    assert "--" not in TrainingOptions("cpu").words()
