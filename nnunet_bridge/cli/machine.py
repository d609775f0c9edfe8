"""`doctor`: what the machine offers."""

from __future__ import annotations

import rich_click as click

from nnunet_bridge.cli.session import Session, bridge_command
from nnunet_bridge.core.summary import Summary


@click.command()
@bridge_command
def doctor(session: Session) -> Summary:
    """Say what this machine and installation can do.

    Example:  nnunet-bridge doctor -w /data/study
    """
    from nnunet_bridge.pipeline.doctor import examine

    return examine(session.root)
