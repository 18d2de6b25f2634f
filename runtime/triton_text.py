"""How is a message written as protobuf's text: the same bytes each time, whatever its strings hold?"""

from collections.abc import Iterator, Sequence


class Word(str):
    """A name of an enum: written without quotes."""

    __slots__ = ()


# a message is its fields in order, a field that is repeated once each time; numbers of one field may be a tuple
Value = str | int | bool | tuple[int, ...] | Sequence["Field"]
Field = tuple[str, Value]
Message = Sequence[Field]


def write_message(message: Message) -> str:
    """The text of `message`, a field a line, as `google.protobuf.text_format` reads it."""
    return "".join(f"{line}\n" for line in _write(message, ""))


def _write(message: Message, indent: str) -> Iterator[str]:
    for name, value in message:
        if isinstance(value, list):
            yield f"{indent}{name} {{"
            yield from _write(value, f"{indent}  ")
            yield f"{indent}}}"
        else:
            yield f"{indent}{name}: {_write_scalar(value)}"


def _write_scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Word | int):
        return str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    assert isinstance(value, str)
    return f'"{"".join(map(_escape, value.encode()))}"'


def _escape(byte: int) -> str:
    """A byte as it stands in a string; what is no plain ASCII in three octal digits, which end by themselves."""
    plain = chr(byte)
    return plain if 32 <= byte < 127 and plain not in "\"'\\" else f"\\{byte:03o}"
