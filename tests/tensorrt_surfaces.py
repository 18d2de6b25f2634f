"""What does a `tensorrt` module offer: every public class, member, signature and enum number, as text.

`python tests/tensorrt_surfaces.py` prints the list of the bindings that it imports (standard library only, so that any
interpreter which has them will do); `make probe-tensorrt` compares it with the files in `tests/tensorrt_api`.

    version 10.3.0
    enum BuilderFlag FP16=0 INT8=1
    class OnnxParser(object) __init__(network,logger) flags= num_errors parse(model,path?)

`name` is a property, `name=` one that can be set, `name()` a method, `?` a parameter with a default, `|` an overload.
"""

import re
import sys
from types import ModuleType
from typing import Any

_OVERLOAD = re.compile(r"^\d+\. (\w+\(self.*)$", re.MULTILINE)


def describe_surface(module: ModuleType) -> str:
    """The public surface of `module` as text, the same for the same bindings."""
    enums, classes = [], []
    for name, item in sorted(_public(module).items()):
        if not isinstance(item, type):
            continue
        for path, kind in [(name, item), *((f"{name}.{inner}", kind) for inner, kind in _nested(item))]:
            if hasattr(kind, "__members__"):
                numbers = sorted(kind.__members__.items(), key=lambda pair: (int(pair[1]), pair[0]))
                enums.append(" ".join(["enum", path, *(f"{member}={int(value)}" for member, value in numbers)]))
        if not hasattr(item, "__members__"):
            classes.append(_describe_class(name, item))
    return "\n".join([f"version {module.__version__}", *enums, *classes]) + "\n"


def _public(owner: Any) -> dict[str, Any]:
    return {name: getattr(owner, name) for name in dir(owner) if not name.startswith("_")}


def _nested(owner: type) -> list[tuple[str, Any]]:
    return [(name, item) for name, item in sorted(_public(owner).items()) if isinstance(item, type)]


def _describe_class(name: str, kind: type) -> str:
    base = kind.__bases__[0].__name__.replace("pybind11_object", "object")
    made = _parameters(kind.__init__)  # type: ignore[misc]
    members = [f"__init__{made}"] if made else []  # else only the library makes one
    for member, item in sorted(_public(kind).items()):
        if isinstance(item, property):
            members.append(f"{member}=" if item.fset else member)
        elif callable(item) and not isinstance(item, type):
            members.append(member + (_parameters(item) or "()"))
        else:
            members.append(member)
    return " ".join([f"class {name}({base})", *members])


def _parameters(method: Any) -> str:
    """The parameters of each overload that the bindings write into a docstring; nothing where they write none."""
    text = (method.__doc__ or "").strip()
    headers = _OVERLOAD.findall(text) if "Overloaded function" in text else text.splitlines()[:1]
    found = [_split(header) for header in headers if re.match(r"\w+\((\w+: .*)?\) ->", header)]
    return "|".join(f"({','.join(names)})" for names in found)


def _split(header: str) -> list[str]:
    """The names of one signature, without `self`; brackets and quotes may hold commas of their own."""
    inside = header[header.index("(") + 1 : header.rindex(")")]
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    names = [part.strip().split(":")[0] + ("?" if "=" in part else "") for part in parts]
    return [name for name in names if name != "self"]


if __name__ == "__main__":
    import tensorrt

    sys.stdout.write(describe_surface(tensorrt))
