"""`doctor`."""

from dataclasses import dataclass

from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Doctor:
    """No options of its own."""


@command(_Doctor)
def doctor(session: Session, _asked: _Doctor) -> Summary:
    """Check this machine and installation.

    Example:  nnunet-bridge doctor -w /data/study
    """
    from nnunet_bridge.pipeline.doctor import examine

    return examine(session.root)
