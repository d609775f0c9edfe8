"""nnU-Net's own arguments after ``--`` are refused by name, with the option to use."""

import pytest
from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.cli.training import OF_PLANNING, OF_TRAINING, refuse_own_arguments
from nnunet_bridge.core.errors import UsageError


@pytest.mark.parametrize(
    ("instead", "word"),
    [(table, word) for table in (OF_PLANNING, OF_TRAINING) for word in table],
)
def test_an_argument_of_nnunet_is_refused_with_what_to_do_instead(instead, word):
    with pytest.raises(UsageError) as caught:
        refuse_own_arguments([word, "4"], instead)

    assert caught.value.exit_code == 2
    assert str(caught.value).splitlines()[1:] == [f"{word}: {instead[word]}."]


def test_every_argument_is_named_at_once_and_values_are_not():
    words = ["-np", "4", "--foo", "-overwrite_target_spacing", "1", "-2", "nan"]

    with pytest.raises(UsageError) as caught:
        refuse_own_arguments(words, OF_PLANNING)

    named = [line.partition(":")[0] for line in str(caught.value).splitlines()[1:]]
    assert named == ["-np", "--foo", "-overwrite_target_spacing"]


@pytest.mark.parametrize("command", ["plan", "train"])
def test_a_word_too_many_is_a_usage_error(command, tmp_path):
    (tmp_path / "nnUNet_raw" / "Dataset001_A").mkdir(parents=True)

    result = CliRunner().invoke(main, [command, "1", "2", "-w", str(tmp_path)])

    assert result.exit_code == 2
    assert "2: unknown" in result.stderr


@pytest.mark.parametrize("name", ["--gpu-memory-target", "--target-spacing"])
@pytest.mark.parametrize("value", ["0", "-1", "x"])
def test_a_target_that_is_not_positive_is_refused(name, value, tmp_path):
    values = [value] * (3 if name == "--target-spacing" else 1)

    result = CliRunner().invoke(main, ["plan", "1", name, *values, "-w", str(tmp_path)])

    assert result.exit_code == 2
    assert name in result.stderr
