"""The command `nnunet-bridge`; heavy modules are imported when a command runs."""

import contextlib
import json
import sys
from typing import Any

import rich_click as click

from nnunet_bridge.cli.ingest import check, convert, image, init
from nnunet_bridge.cli.machine import doctor, gui, info
from nnunet_bridge.cli.models import pack, unpack
from nnunet_bridge.cli.results import clean, mesh, predict, results, score, view
from nnunet_bridge.cli.streams import prepare_streams, say
from nnunet_bridge.cli.study import audit, compare, demo, describe, run
from nnunet_bridge.cli.training import plan, select, status, train
from nnunet_bridge.core.errors import Interrupted

_GROUPS = {
    "Everything at once": (demo, run, gui),
    "From DICOM and masks to a dataset": (init, check, convert, image),
    "Training": (plan, train, status, select),
    "Results": (predict, clean, score, mesh, view, compare, audit, results, describe),
    "Models as files": (pack, unpack),
    "The machine": (doctor, info),
}

click.rich_click.STYLE_OPTIONS_PANEL_BORDER = "dim"
click.rich_click.STYLE_COMMANDS_PANEL_BORDER = "dim"
click.rich_click.COMMAND_GROUPS = {
    "nnunet-bridge": [
        {"name": title, "commands": [str(command.name) for command in commands]}
        for title, commands in _GROUPS.items()
    ]
}

HELP_ON = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class BridgeGroup(click.RichGroup):
    """A group that prints usage errors as one JSON object with `--json`."""

    def main(self, *words: Any, **options: Any) -> Any:
        """Run the command and exit with its code."""
        prepare_streams()
        asked = list((words[0] if words else options.get("args")) or sys.argv[1:])
        options["standalone_mode"] = False
        try:
            result = super().main(*words, **options)
        except click.ClickException as error:
            if "--json" in asked:
                message = error.format_message()
                content = {"error": message, "code": "", "exit_code": error.exit_code}
                say(json.dumps(content, indent=2), as_is=True)
            with contextlib.suppress(OSError, ValueError):
                error.show()
            sys.exit(error.exit_code)
        except click.Abort:
            sys.exit(Interrupted.exit_code)
        sys.exit(result if isinstance(result, int) else 0)


@click.group(cls=BridgeGroup, context_settings=HELP_ON)
@click.version_option(package_name="nnunet-bridge")
def main() -> None:
    """Train nnU-Net on DICOM images and 3D Slicer masks, and predict new patients.

    Compare 2D with 3D on your data.

    Try it:  nnunet-bridge demo
    """


for commands in _GROUPS.values():
    for command in commands:
        main.add_command(command)
