"""Every kind of error ends a command with the exit code of the reference page."""

import re
from pathlib import Path

import pytest

from nnunet_bridge.core import errors

DOCS = Path(__file__).parents[2] / "docs"


def documented():
    """Return the first words of the meaning of every exit code."""
    page = (DOCS / "reference" / "commands.md").read_text()
    table = page.partition("## Exit codes")[2].partition("\n##")[0]
    return {
        int(code): words for code, words in re.findall(r"\| (\d+) \| (.*) \|", table)
    }


@pytest.mark.parametrize(
    ("kind", "code", "words"),
    [
        (errors.UsageError, 2, "usage"),
        (errors.RecipeError, 3, "the recipe is not valid"),
        (errors.GeometryError, 3, "the input cannot be used"),
        (errors.InputError, 3, "the input cannot be used"),
        (errors.EnvironmentFault, 5, "environment"),
        (errors.SecurityError, 6, "security"),
        (errors.NnUNetError, 7, "nnU-Net failed"),
        (errors.WorkerKilled, 7, "nnU-Net failed"),
        (errors.Interrupted, 130, "interrupted by Ctrl-C"),
    ],
)
def test_an_error_has_the_exit_code_of_the_page(kind, code, words):
    assert kind("What happened.").exit_code == code
    assert words in documented()[code]


def test_an_error_keeps_its_message_and_the_code_of_its_fault():
    error = errors.InputError("What happened.", code="G03")

    assert (str(error), error.code) == ("What happened.", "G03")
    assert errors.WorkerKilled("Memory.").code == "F11"
