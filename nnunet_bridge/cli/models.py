"""`pack` and `unpack`."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_bridge.cli import options as shared
from nnunet_bridge.cli.fields import argument, option
from nnunet_bridge.cli.session import Session, command
from nnunet_bridge.core.summary import Summary


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pack:
    dataset: str = shared.dataset_field()
    out: Path = option("-o", "--out", "Zip to write.", type=shared.FILE)
    configuration: str | None = shared.configurations_field(
        "[default: the one with the higher validation Dice]"
    )
    folds: tuple[str, ...] = shared.folds_field(
        "Repeat for several. [default: all finished folds]"
    )
    model: str | None = shared.finished_model_field()
    budget: str | None = shared.finished_budget_field()
    seed: int = shared.seed_field()


@command(_Pack)
def pack(session: Session, asked: _Pack) -> Summary:
    """Write a finished model to one file, without paths, names or identities.

    Example:  nnunet-bridge pack 1 -o tibia.zip
    """
    from nnunet_bridge.pipeline.models.choose import ModelRequest
    from nnunet_bridge.pipeline.models.pack import pack_model

    dataset = session.dataset(asked.dataset)
    configurations = (asked.configuration,) if asked.configuration else ()
    words = asked.folds, asked.budget, asked.model, asked.seed
    request = ModelRequest(configurations, *words)
    with session.progress() as progress:
        return pack_model(dataset, asked.out, request, progress=progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Unpack:
    file: Path = argument(type=shared.EXISTING_FILE)
    replace: bool = shared.output_option("--replace", "Replace an existing model.")


@command(_Unpack)
def unpack(session: Session, asked: _Unpack) -> Summary:
    """Check a packed model, then install it among the results.

    No part of it runs before all checks have passed.

    Example:  nnunet-bridge unpack tibia.zip
    """
    from nnunet_bridge.pipeline.models.pack import unpack_model

    with session.progress() as progress:
        return unpack_model(
            session.workspace, asked.file, replace=asked.replace, progress=progress
        )
