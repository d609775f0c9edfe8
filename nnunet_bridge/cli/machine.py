"""`gui`, `doctor` and `info`."""

import json
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import rich_click as click
from click import get_current_context

from nnunet_bridge.cli.fields import option
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.cli.streams import say
from nnunet_bridge.core.errors import EnvironmentFault
from nnunet_bridge.core.summary import JsonObject, Summary

_MOST_PORTS = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gui:
    port: int = option(
        "--port",
        "Port of 127.0.0.1; 0 takes a free one.",
        type=click.IntRange(0, _MOST_PORTS),
        default=8642,
    )
    roots: tuple[Path, ...] = option(
        "--root",
        "Folder that the page may show, with everything in it. Repeat for several. "
        "[default: your home folder]",
        type=click.Path(path_type=Path, file_okay=False, exists=True),
    )
    no_browser: bool = option("--no-browser", "Do not open a browser.")


@dataclass(frozen=True, slots=True)
class _Closed:
    """The page has ended; with `--json`, its one object was printed at the start."""

    exit_code = 0

    def as_json(self) -> JsonObject:
        """Return an empty object."""
        return {}

    def as_text(self) -> str:
        """Return a sentence."""
        return "The page has ended. Running commands go on."


@command(_Gui)
def gui(session: Session, asked: _Gui) -> Summary:
    """Open the page: every step in your browser.

    Only this machine and the address that is printed reach it. Ctrl-C ends the page;
    commands that it started go on, and the next start finds them.

    Example:  nnunet-bridge gui -w /data/work --root /data/studies
    """
    if find_spec("uvicorn") is None or find_spec("starlette") is None:
        raise EnvironmentFault(
            "The page needs the extra gui: pip install 'nnunet-bridge[gui]'."
        )
    from nnunet_bridge.gui.serve import serve

    def announce(address: str) -> None:
        say(json.dumps({"address": address}) if session.as_json else address)

    session.root.mkdir(parents=True, exist_ok=True)
    roots = asked.roots or (Path.home(),)
    serve(session.root, roots, asked.port, announce, browser=not asked.no_browser)
    if session.as_json:
        sys.exit(0)
    return _Closed()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doctor:
    """No options of its own."""


@command(_Doctor)
def doctor(session: Session, _asked: _Doctor) -> Summary:
    """Check this machine and installation.

    Example:  nnunet-bridge doctor -w /data/study
    """
    from nnunet_bridge.pipeline.doctor import examine

    with session.progress() as progress:
        progress.stage("doctor", 1)
        return examine(session.root)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Info:
    """No options of its own."""


@command(_Info)
def info(_session: Session, _asked: _Info) -> Summary:
    """Describe this package to other programs.

    With --json: commands with their options, exit codes, codes of faults, and the JSON
    schemas of the files and of every command's output.

    Example:  nnunet-bridge info --json
    """
    from nnunet_bridge.pipeline.info import Info

    group = cast("click.Group", get_current_context().find_root().command)
    return Info({name: _described(each) for name, each in group.commands.items()})


def _described(each: click.Command) -> JsonObject:
    """Return what click knows of a command."""
    found = [_parameter(p) for p in each.params]
    return {
        "help": each.get_short_help_str(limit=200),
        "arguments": [p for p in found if not p["flags"]],
        "options": [p for p in found if p["flags"]],
    }


def _parameter(declared: click.Parameter) -> JsonObject:
    facts = declared.to_info_dict()
    is_option = isinstance(declared, click.Option)
    default = facts.get("default")
    plain = isinstance(default, str | int | float)
    return {
        "name": declared.name,
        "flags": [*declared.opts, *declared.secondary_opts] if is_option else [],
        "type": facts["type"]["name"],
        "choices": list(facts["type"].get("choices", [])),
        "default": default if plain else None,
        "required": declared.required,
        "repeatable": bool(facts["multiple"] or declared.nargs == -1),
        "variable": facts["envvar"],
        "help": facts.get("help") or "",
    }
