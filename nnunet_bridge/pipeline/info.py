"""What other programs need to know: commands, JSON schemas, exit codes and faults.

`OUTPUTS` states what the JSON of a command holds at least; a test holds the output of
every command that the tests run against it. The schemas of files come from the classes
that read them.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nnunet_bridge.core import errors
from nnunet_bridge.core.findings import Outcome
from nnunet_bridge.core.records import json_schema
from nnunet_bridge.core.summary import JsonObject
from nnunet_bridge.core.units import counted
from nnunet_bridge.core.version import __version__
from nnunet_bridge.formats.faults import known_faults

_CASE = {
    "case": str,
    "outcome": [str(outcome) for outcome in Outcome],
    "codes": (str,),
    "messages": (str,),
}
_FILES = {"found": int, "used": int, "excluded": int, "failed": int}
_RUN = {
    "configuration": str,
    "fold": int | str,
    "model": str,
    "state": str,
    "folder": str,
    "epochs": int,
    "mean_dice": float | None,
}
_RUNS = {"runs": (_RUN,)}
_CHECKED = {"dataset": str, "cases": (_CASE,), "files": _FILES}
_STUDY = {"conversion": _CHECKED, "training": _RUNS, "scores": dict}
_RESULT = {
    "metric": str,
    "structure": str,
    "first": str,
    "second": str,
    "n": int,
    **dict.fromkeys(("median_difference", "p", "p_holm", "effect"), float | None),
    "interval_95?": (float,),
}

OUTPUTS: dict[str, Any] = {
    "doctor": {"checks": ({"name": str, "ok": bool, "detail": str},)},
    "init": {
        "recipe": str,
        "table": str,
        "cases": (dict,),
        "structures": (str,),
        "unknown": (dict,),
        "unused": (dict,),
    },
    **dict.fromkeys(("run", "demo"), _STUDY),
    "gui": {"address": str},
    "check": _CHECKED,
    "convert": _CHECKED,
    "image": {**_CASE, "files": _FILES, "shape?": (int,), "spacing_mm?": (float,)},
    "plan": {"dataset": str, "plans": str, "configurations": dict},
    "train": _RUNS,
    "status": _RUNS,
    "select": {"chosen": dict, "candidates": (dict,), "optimistic": bool},
    "predict": {"cases": ({**_CASE, "volumes_mm3?": dict, "files?": (str,)},)},
    "clean": {"cases?": (_CASE,)},
    "score": {"mean": {"*": {"n": int}}, "cases": (_CASE,)},
    "mesh": {"cases": (_CASE,)},
    "view": {"file?": str},
    "compare": {"verdict": dict, "results": (_RESULT,)},
    "audit": {"masks": (dict,)},
    "describe": {"dataset": str, "sentences": (str,), "missing": (str,)},
    "results": {"table": str, "codebook": str, "rows": int, "cases": int},
    "pack": {"model": str, "sha256": str},
    "unpack": {"model": str, "sha256": str},
    "info": {
        "version": str,
        "commands": dict,
        "exit_codes": dict,
        "faults": (dict,),
        "schemas": dict,
    },
    "error": {"error": str, "code": str, "exit_code": int, "cases?": (_CASE,)},
}
"""Command -> keys of its JSON. A type is a value of it, a tuple of one is a list; a
list has the allowed words; ``key?`` may be missing or null; ``*`` is any key."""

EXIT_CODES = {
    0: "done",
    1: "internal error",
    2: "usage",
    3: "every case refused, or the recipe is invalid",
    4: "some cases refused",
    errors.EnvironmentFault.exit_code: "disk, permission, memory, lock, or no GPU",
    errors.SecurityError.exit_code: "refused for security",
    errors.NnUNetError.exit_code: "nnU-Net failed",
    errors.Interrupted.exit_code: "interrupted",
}

_TYPES: dict[Any, Any] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    dict: "object",
    float | None: ["number", "null"],
    int | str: ["integer", "string"],
}


@dataclass(frozen=True, slots=True)
class Info:
    """The description of the package."""

    commands: Mapping[str, JsonObject]
    exit_code: int = 0

    def as_json(self) -> JsonObject:
        """Return everything."""
        return {
            "version": __version__,
            "commands": dict(self.commands),
            "exit_codes": {str(code): text for code, text in EXIT_CODES.items()},
            "faults": [asdict(fault) for fault in known_faults()],
            "schemas": schemas(),
        }

    def as_text(self) -> str:
        """Return an overview; the JSON has the rest."""
        lines = [f"nnunet-bridge {__version__}", "", "Commands:"]
        for name, about in self.commands.items():
            options = counted(len(about["options"]), "option")
            lines.append(f"  {name:<9} {about['help']} ({options})")
        lines += ["", "Exit codes:"]
        lines += [f"  {code:<4} {text}" for code, text in EXIT_CODES.items()]
        families = Counter(fault.family for fault in known_faults())
        kinds = ", ".join(f"{letter} {n}" for letter, n in families.items())
        lines += ["", f"Faults: {families.total()} ({kinds})."]
        lines += [f"Schemas: {', '.join(schemas())}.", "Details: info --json"]
        return "\n".join(lines)


def schemas() -> dict[str, JsonObject]:
    """Return the JSON schemas of our files and of the output of every command."""
    outputs = {f"output-{name}": schema_of(keys) for name, keys in OUTPUTS.items()}
    return {name: json_schema(kind) for name, kind in _files().items()} | outputs


def _files() -> dict[str, type]:
    """Return the classes that read our files."""
    from nnunet_bridge.formats.manifest import Manifest
    from nnunet_bridge.formats.recipe import Recipe
    from nnunet_bridge.nnunet.planned import Planned
    from nnunet_bridge.nnunet.runs import RunRecord
    from nnunet_bridge.pipeline.models.choose import ChoiceRecord
    from nnunet_bridge.pipeline.prediction.record import PredictionRecord

    return {
        "dataset.toml": Recipe,
        "manifest.json": Manifest,
        "planned.json": Planned,
        "run.json": RunRecord,
        "choice.json": ChoiceRecord,
        "prediction.json": PredictionRecord,
    }


def schema_of(keys: Any) -> JsonObject:  # noqa: ANN401 - an entry of `OUTPUTS`
    """Return the JSON schema of an entry of `OUTPUTS`.

    Examples
    --------
    >>> schema_of({"n": int, "p?": (float,)})["required"]
    ['n']
    """
    if isinstance(keys, tuple):
        return {"type": "array", "items": schema_of(keys[0])}
    if isinstance(keys, list):
        return {"enum": keys}
    if not isinstance(keys, dict):
        return {"type": _TYPES[keys]}
    if "*" in keys:
        return {"type": "object", "additionalProperties": schema_of(keys["*"])}
    properties = {}
    for name, kind in keys.items():
        schema = schema_of(kind)
        optional = {"anyOf": [schema, {"type": "null"}]}
        properties[name.rstrip("?")] = optional if name.endswith("?") else schema
    required = [name for name in keys if not name.endswith("?")]
    return {"type": "object", "required": required, "properties": properties}
