"""Write the keys of a recipe into docs/reference/recipe.md, from the code itself.

``make docs`` calls this file. Types, limits and defaults come from the pydantic models,
the meaning of a key from the string below its field.
"""

import inspect
import json
import re
from pathlib import Path

from nnunet_bridge.formats.channels import ChannelSeries
from nnunet_bridge.formats.recipe import Recipe

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "recipe.md"
KEYS = re.compile(
    r"(?<=<!-- keys of a recipe -->\n).*?(?=<!-- end of keys -->)", re.DOTALL
)
_HEAD = "| key | value | default | meaning |\n|---|---|---|---|\n"
_TYPES = {
    "integer": "whole number", "number": "number", "string": "text",
    "boolean": "`true` or `false`", "array": "list", "object": "table",
}  # fmt: skip


def with_keys(page):
    """Return a text of the page with the keys as the models have them now."""
    return KEYS.sub(lambda _: keys(), page)


def keys():
    """Return one section for each table of a recipe."""
    parts = {
        name: field.annotation
        for name, field in Recipe.model_fields.items()
        if hasattr(field.annotation, "model_fields")
    }
    sections = [_section(f"[{n}]", n, model) for n, model in parts.items()]
    sections.append(_section("[channels.NAME]", "channels.NAME", ChannelSeries))
    whole = Recipe.model_json_schema()["properties"]
    rows = [
        _row("labels", whole["labels"], needed=True),
        _row("labels.aliases", whole["labels"]["properties"]["aliases"]),
        _row("cases.ID", whole["cases"]),
    ]
    return "\n".join([*sections, "## Labels and cases", "", _HEAD + "".join(rows)])


def _section(title, prefix, model):
    about = inspect.getdoc(model).partition(": ")[2].replace("\n", " ")
    schema = model.model_json_schema()
    needed = schema.get("required", [])
    rows = [
        _row(f"{prefix}.{name}", part, needed=name in needed)
        for name, part in schema["properties"].items()
    ]
    return f"## {title}\n\n{about[0].upper()}{about[1:]}\n\n{_HEAD}{''.join(rows)}"


def _row(key, part, *, needed=False):
    default = "required" if needed else _default(part.get("default"))
    cells = [f"`{key}`", _value(part), default, part["description"]]
    return "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |\n"


def _default(value):
    if value in (None, [], {}):
        return "none"
    raw = isinstance(value, str) and "\\" in value
    return f"`'{value}'`" if raw else f"`{json.dumps(value)}`"


def _value(part):
    """Return the choices, or the type with its limits."""
    some = [p for p in part.get("anyOf", [part]) if p.get("type") != "null"]
    return " or ".join(dict.fromkeys(map(_one_value, some)))


def _one_value(part):
    if "enum" in part:
        return ", ".join(f'`"{word}"`' for word in part["enum"])
    low, high = part.get("minimum"), part.get("maximum")
    if low is not None and high is not None:
        return f"{low} to {high}"
    above, below = part.get("exclusiveMinimum"), part.get("exclusiveMaximum")
    limits = [f"above {above:g}"] if above is not None else []
    limits += [f"below {below:g}"] if below is not None else []
    limits += [f"from {low}"] if low is not None else []
    return " ".join([_TYPES[part["type"]], ", ".join(limits)]).strip()


if __name__ == "__main__":
    PAGE.write_text(with_keys(PAGE.read_text("utf-8")), "utf-8")
