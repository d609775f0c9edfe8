"""The help of every command: grouped, complete, and readable at any width."""

from dataclasses import dataclass, fields

import pytest
import rich_click as click
from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.cli.fields import Group, argument, option, part
from nnunet_bridge.cli.session import Session, command

COMMANDS = sorted(main.commands.items())
OPTIONS = [
    pytest.param(option, id=f"{name} {option.opts[-1]}")
    for name, found in COMMANDS
    for option in found.params
    if isinstance(option, click.Option)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    x: int | None = option("--x", "X.", group=Group.INPUT)
    y: int | None = option("--y", "Y.", group=Group.INPUT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    file: str = argument()
    names: tuple[str, ...] = option("--name", "A name.")
    place: Place = part(Place)
    size: float = option("--size", "A size.", default=1.0)


@pytest.fixture
def call():
    """Call a command of `Wanted`; return the options value that its function gets."""
    got = []

    @command(Wanted)
    def wanted(session, asked):
        got.append((session, asked))
        raise SystemExit

    def run(*words):
        assert CliRunner().invoke(wanted, list(words)).exit_code == 0
        return got[-1]

    return run


def test_a_command_gets_all_its_options_as_one_value(call):
    session, asked = call("a", "--name", "b", "--name", "c", "--y", "3", "-q")

    assert asked == Wanted(file="a", names=("b", "c"), place=Place(x=None, y=3), size=1)
    assert session.quiet
    assert not session.as_json


def test_the_session_holds_what_every_command_has():
    names = {field.name for field in fields(Session)}

    assert all(names <= {o.name for o in found.params} for _, found in COMMANDS)


@pytest.mark.parametrize("each", OPTIONS)
def test_the_help_of_an_option_is_a_whole_phrase(each):
    assert each.help.partition(" [default")[0].endswith(".")


@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_the_panels_of_a_help_come_in_one_order_and_the_common_options_last(name):
    found = main.commands[name]
    order = list(Group)
    panels = [order.index(panel.name) for panel in found.panels]
    assert panels == sorted(panels)
    assert found.panels[-1].name == Group.COMMON
    assert {o.panel for o in found.params if isinstance(o, click.Option)} == {
        panel.name for panel in found.panels
    }


@pytest.mark.parametrize("columns", [80, 120])
@pytest.mark.parametrize("name", [name for name, _ in COMMANDS])
def test_a_help_fits_the_terminal(name, columns):
    runner = CliRunner(env={"COLUMNS": str(columns), "TERMINAL_WIDTH": str(columns)})

    lines = runner.invoke(main, [name, "--help"]).output.splitlines()

    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "…" in line]


def test_the_type_of_a_field_decides_how_its_option_is_given():
    @dataclass(frozen=True, kw_only=True)
    class All:
        flag: bool = option("--flag", "A flag.")
        many: tuple[str, ...] = option("--many", "Many.", choices=("a", "b"))
        one: str = option("--one", "One.", choices=("a", "b"))
        perhaps: str | None = option("--perhaps", "Perhaps.", choices=("a", "b"))
        needed: int = option("--needed", "A number.")

    @command(All)
    def every(_session, _asked): ...

    found = {o.name: o for o in every.params}
    assert found["flag"].is_flag
    assert found["many"].multiple
    assert (found["one"].default, found["perhaps"].default) == ("a", None)
    assert [name for name, o in found.items() if o.required] == ["needed"]
    assert found["needed"].type is click.INT
