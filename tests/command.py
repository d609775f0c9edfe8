"""Our command, called in the process of the test: no interpreter starts for it."""

import json

from click.testing import CliRunner

from nnunet_bridge.cli import main
from nnunet_bridge.pipeline.info import OUTPUTS, schema_of


def bridge(*words, check=True, environment=None):
    """Run a command; return what it printed and its exit code.

    With `--json`, its output must follow the schema that the reference publishes.
    """
    result = CliRunner().invoke(main, list(map(str, words)), env=environment)
    if check:
        assert result.exit_code == 0, result.output
    if "--json" in words:
        found = json.loads(result.stdout)
        name = "error" if "error" in found else words[0]
        if "--tune" not in words:
            assert faults_of(found, schema_of(OUTPUTS[name])) == [], found
    return result


TYPES = {
    "string": str, "integer": int, "number": (int, float), "boolean": bool,
    "array": list, "object": dict, "null": type(None),
}  # fmt: skip


def faults_of(value, schema, place="output"):
    """Return where a value does not follow a JSON schema, of the few words we use."""
    if "anyOf" in schema:
        found = [faults_of(value, one, place) for one in schema["anyOf"]]
        return min(found, key=len)
    if "enum" in schema:
        return [] if value in schema["enum"] else [f"{place} is {value!r}"]
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    if not any(isinstance(value, TYPES[kind]) for kind in kinds):
        return [f"{place} is {value!r}, not {kinds}"]
    if isinstance(value, list):
        inside = [(f"{place}[{n}]", v, schema["items"]) for n, v in enumerate(value)]
    else:
        lacking = [name for name in schema.get("required", ()) if name not in value]
        if lacking:
            return [f"{place} lacks {lacking}"]
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", {"type": list(TYPES)})
        items = value.items() if isinstance(value, dict) else ()
        inside = [(f"{place}.{k}", v, known.get(k, other)) for k, v in items]
    return [
        f
        for at, v, s in inside
        if s != {"type": list(TYPES)}
        for f in faults_of(v, s, at)
    ]
