"""Every command that a message suggests is one that click accepts."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from tiny_model import NOWHERE

import nnunet_bridge
from nnunet_bridge.cli import main
from nnunet_bridge.core.words import Configuration, RunStatus
from nnunet_bridge.nnunet.methods import METHODS
from nnunet_bridge.nnunet.names import Dataset, Run
from nnunet_bridge.nnunet.plans import PLANNERS, plan_words
from nnunet_bridge.nnunet.runs import RunState
from nnunet_bridge.pipeline.models.choose import Model
from nnunet_bridge.pipeline.models.tune import tune_command

PACKAGE = Path(nnunet_bridge.__file__).parent
COMMAND = re.compile(rf"`(?:nnunet-bridge )?((?:{'|'.join(main.commands)})\b[^`]*)`")
SAMPLES = {"dataset": "Dataset001_Leg", "number": "1", "fold": "0", "case": "a"}
"""What stands in place of a value in a message, by a word of its expression."""


def messages(file):
    """Yield the texts of a module that are no docstrings, with samples for values."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    documented = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(map(text_of, node.values))
        elif isinstance(node, ast.Constant) and id(node) not in documented | parts:
            yield str(node.value)


def text_of(part):
    if isinstance(part, ast.Constant):
        return part.value
    expression = ast.unparse(part.value)
    return next((SAMPLES[word] for word in SAMPLES if word in expression), "\0")


def suggestions():
    for file in sorted(PACKAGE.rglob("*.py")):
        for text in messages(file):
            for found in COMMAND.findall(text):
                if "\0" not in found:
                    yield found


def check(words):
    """Parse a command with click; arguments may be missing, options must be right."""
    name, *rest = shlex.split(words)
    command = main.commands[name]
    context = command.context_class(command, info_name=name)
    values, _, _ = command.make_parser(context).parse_args(list(rest))
    for parameter in command.params:
        if isinstance(values.get(parameter.name), str | list):
            parameter.type_cast_value(context, values[parameter.name])


def test_a_command_in_a_message_is_known_with_its_options():
    found = set(suggestions())

    assert {words.split()[0] for words in found} >= {"convert", "status", "train"}
    for words in found:
        check(words.replace("...", ""))


@pytest.mark.parametrize("plans", [planner.plans for planner in PLANNERS.values()])
def test_the_command_that_makes_plans_is_accepted(plans):
    check(plan_words("Dataset001_Leg", plans).removeprefix("nnunet-bridge "))


RUNS = [
    (method.model, method.budget.name, configuration, method.trainer, method.plans)
    for method in METHODS.values()
    for configuration in method.configurations
]
FROM_ELSEWHERE = [
    ("nnUNetTrainer__nnUNetResEncUNetXLPlans", "full", configuration, "nnUNetTrainer")
    for configuration in Configuration
]


@pytest.mark.parametrize(
    ("kind", "budget", "configuration", "trainer", "plans"),
    [*RUNS, *((*one, "nnUNetResEncUNetXLPlans") for one in FROM_ELSEWHERE)],
)
def test_the_command_that_tunes_the_cleaning_of_any_model_is_accepted(
    kind, budget, configuration, trainer, plans
):
    dataset = Dataset(NOWHERE, "Dataset001_Leg")
    run = Run(dataset, configuration, 0, trainer, plans)
    state = RunState(run, RunStatus.DONE, run.fold_dir)

    words = tune_command(Model(kind, budget, (state,), "a test"))

    check(words.removeprefix("nnunet-bridge "))
    assert f"-c {configuration}" in words
    assert ("--model" in words) == (kind != "nnunet")
