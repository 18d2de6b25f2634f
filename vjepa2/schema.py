"""How does JSON become one of our frozen dataclasses: exactly, or not at all."""

import types
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from vjepa2.errors import BundleError

_Record = TypeVar("_Record")
_PLAIN = (str, int, float, bool, type(None))
ADDED_LATER = {"may_be_missing": True}  # metadata of a field with a default, that files written before it lack


def read_record(kind: type[_Record], value: object, where: str) -> _Record:
    """Build `kind` from parsed JSON; unknown or missing keys and wrong types are a `BundleError` naming `where`.

    A key that is `ADDED_LATER` may be missing.
    """
    if not isinstance(value, dict):
        raise BundleError(f"{where} is {_show(value)}; it must be an object")
    hints = _hints_of(kind)  # type: ignore[arg-type]
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    needed = list_needed(kind)
    unknown = sorted(set(value) - set(names))
    missing = [name for name in needed if name not in value]
    if unknown or missing:
        raise BundleError(f"{where} has unknown keys {unknown} and lacks {missing}; it must have exactly {names}")
    return kind(**{name: _read(hints[name], value[name], f"{where}.{name}") for name in names if name in value})


def to_record(value: Any) -> Any:
    """What `read_record` reads, as `asdict` gives it; what was `ADDED_LATER` is left out where it has its default.

    So what has no use for it stays as it was written before, to the byte.
    """
    if is_dataclass(value) and not isinstance(value, type):
        held = [(field, getattr(value, field.name)) for field in fields(value)]
        return {
            field.name: to_record(each)
            for field, each in held
            if "may_be_missing" not in field.metadata or each != field.default
        }
    if isinstance(value, dict):
        return {key: to_record(each) for key, each in value.items()}
    return [to_record(each) for each in value] if isinstance(value, (tuple, list)) else value


def list_needed(kind: type) -> list[str]:
    """Names of the fields that a file must have."""
    return [field.name for field in fields(kind) if "may_be_missing" not in field.metadata]


_hints_of = cache(get_type_hints)


def _read(hint: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return read_record(hint, value, where)  # type: ignore[arg-type]
    if origin is Literal and value in arguments and type(value) in {type(choice) for choice in arguments}:
        return value
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is tuple and isinstance(value, list):
        return _read_tuple(arguments, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint in _PLAIN and type(value) is hint:
        return value
    raise BundleError(f"{where} is {_show(value)}; it must be {_name(hint)}")


def _read_union(choices: tuple[Any, ...], value: object, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    for choice in (choice for choice in choices if choice is not type(None)):
        try:
            return _read(choice, value, where)
        except BundleError as error:
            last = error
    if isinstance(value, dict):
        raise last
    raise BundleError(f"{where} is {_show(value)}; it must be {' or '.join(map(_name, choices))}")


def _read_tuple(hints: tuple[Any, ...], values: list[object], where: str) -> tuple[Any, ...]:
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(values)
    if len(hints) != len(values):
        raise BundleError(f"{where} has {len(values)} items; it must have {len(hints)}")
    pairs = enumerate(zip(hints, values, strict=True))
    return tuple(_read(hint, value, f"{where}[{index}]") for index, (hint, value) in pairs)


def _name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return " or ".join(map(repr, get_args(hint)))
    return "null" if hint is type(None) else getattr(hint, "__name__", str(hint))


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
