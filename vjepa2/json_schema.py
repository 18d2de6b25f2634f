"""Which JSON is one of our records, told to a program that is not ours: JSON Schema of the dataclass that reads it?"""

import types
from dataclasses import fields, is_dataclass
from inspect import getdoc
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from vjepa2.odd_numbers import WORDS
from vjepa2.schema import list_needed

_DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NUMBER = "number"  # the definition of one that may be none
_PLAIN = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"$ref": f"#/$defs/{_NUMBER}"},
    bool: {"type": "boolean"},
    type(None): {"type": "null"},
}


def describe_record(kind: type) -> dict[str, Any]:
    """The schema of `kind` as `spell_numbers` and JSON write it; `TypeError` for a type that is not read."""
    found: dict[str, Any] = {
        _NUMBER: {"description": "JSON has no NaN.", "anyOf": [{"type": "number"}, {"enum": list(WORDS)}]}
    }
    return {"$schema": _DRAFT, "title": kind.__name__, **_refer(kind, found), "$defs": found}


def _refer(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    """A reference to a record's schema, which is put into `found` once."""
    name = f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"
    if name not in found:
        found[name] = {}  # a record may hold its own kind
        found[name].update(_describe_fields(kind, found))
    return {"$ref": f"#/$defs/{name}"}


def _describe_fields(kind: type, found: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {
        "description": (getdoc(kind) or "").partition("\n")[0],
        "type": "object",
        "properties": {field.name: _describe(hints[field.name], found) for field in fields(kind)},
        "required": list_needed(kind),
        "additionalProperties": False,
    }


def _describe(hint: Any, found: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return _refer(hint, found)  # type: ignore[arg-type]
    if hint in _PLAIN:
        return dict(_PLAIN[hint])
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        return {"anyOf": [_describe(each, found) for each in arguments]}
    if origin is tuple:
        return _describe_tuple(arguments, found)
    if origin is dict and arguments[0] is str:
        return {"type": "object", "additionalProperties": _describe(arguments[1], found)}
    raise TypeError(f"{hint} is no type that a record of ours is read with")


def _describe_tuple(hints: tuple[Any, ...], found: dict[str, Any]) -> dict[str, Any]:
    if hints[-1] is Ellipsis:
        return {"type": "array", "items": _describe(hints[0], found)}
    each = [_describe(hint, found) for hint in hints]
    return {"type": "array", "prefixItems": each, "minItems": len(each), "maxItems": len(each)}
