"""Write the JSON schemas and the tables of faults of the reference, from the code.

``make docs`` calls this file. Other programs read the schemas, so a change shows in a
commit: ``docs/reference/schemas`` has one file for each of our files, and
``outputs.json`` for what the commands print with ``--json``.
"""

import json
import re
from pathlib import Path

from nnunet_bridge.formats.faults import known_faults
from nnunet_bridge.pipeline.info import schemas

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
FAULTS = re.compile(
    r"(<!-- faults: (\w) -->\n).*?(?=<!-- end of faults -->)", re.DOTALL
)
_HEAD = "| code | meaning | outcome |\n|---|---|---|\n"


def pages():
    """Return the text of every generated file, by its path."""
    faults, outputs, texts = REFERENCE / "faults.md", {}, {}
    for name, schema in schemas().items():
        if name.startswith("output-"):
            outputs[name.removeprefix("output-")] = schema
        else:
            texts[f"{name.partition('.')[0]}.json"] = schema
    texts["outputs.json"] = outputs
    written = {
        REFERENCE / "schemas" / name: json.dumps(content, sort_keys=True) + "\n"
        for name, content in texts.items()
    }
    return {**written, faults: FAULTS.sub(_table, faults.read_text("utf-8"))}


def _table(found):
    rows = [f for f in known_faults() if f.family == found[2]]
    cells = (f"| {f.code} | {f.meaning} | {f.outcome} |\n" for f in rows)
    return found[1] + _HEAD + "".join(cells)


if __name__ == "__main__":
    for file, text in pages().items():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
