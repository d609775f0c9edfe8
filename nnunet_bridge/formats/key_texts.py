"""How a JSON schema describes keys: by the strings below the fields of the model.

pydantic can read them too, but does so whenever the class is made, which takes longer
than reading a recipe. Here they are read when a JSON schema is asked for.
"""

import ast
import contextlib
import inspect
from itertools import pairwise
from typing import Any

from pydantic import WithJsonSchema


def describe_keys(schema: dict[str, Any], model: type) -> None:
    """Give each property of the JSON schema of a model its description.

    Use it as ``json_schema_extra``. Without the source of the model, there are none.
    """
    with contextlib.suppress(OSError):
        for name, text in _texts_below_fields(model).items():
            if name in schema["properties"]:
                schema["properties"][name]["description"] = text


def one_or_several(kind: str) -> WithJsonSchema:
    """Describe a key that is written as one value or as a list of them."""
    one = {"type": kind}
    return WithJsonSchema({"anyOf": [one, {"type": "array", "items": one}]})


def _texts_below_fields(model: type) -> dict[str, str]:
    """Return the string below each field of a class, on one line."""
    (described,) = ast.parse(inspect.getsource(model)).body
    texts = {}
    for field, below in pairwise(getattr(described, "body", ())):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = " ".join(text.split())
    return texts
