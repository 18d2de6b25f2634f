"""Does the schema of a page's twin take what we write and refuse what is spoilt, in a validator that is not ours?"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from tests.measured import call
from vjepa2.bundle import Bundle
from vjepa2.errors import BundleError
from vjepa2.json_schema import describe_record
from vjepa2.odd_numbers import spell_numbers
from vjepa2.runtime.evidence import describe_evidence, gather_evidence, read_evidence, write_evidence
from vjepa2.schema import read_record

jsonschema: Any = pytest.importorskip("jsonschema", reason="could not import 'jsonschema': pip install it")


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = describe_evidence()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


@pytest.fixture(scope="module")
def twin(measured: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("twin") / "page.json"
    write_evidence(str(file), gather_evidence(Bundle.open(measured)))
    record: dict[str, Any] = json.loads(file.read_text())
    return record


def test_what_is_printed_is_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert call("report", "--schema") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == describe_evidence()
    assert printed["$schema"].endswith("2020-12/schema")


@pytest.mark.parametrize("words", [["x"], ["--compare", "a", "b"], ["-o", "page.html"], ["--json", "-"]])
def test_the_schema_is_printed_alone(words: list[str]) -> None:
    assert call("report", "--schema", *words) == 2


def test_a_real_twin_is_valid(validator: Any, twin: dict[str, Any]) -> None:
    assert twin["latency"] is not None
    assert twin["parity"]["candidates"][0]["worst_map"]["pictures"]
    validator.validate(twin)


def test_a_bundle_that_nothing_was_measured_of_is_valid(validator: Any, exported: Path, tmp_path: Path) -> None:
    write_evidence(str(tmp_path / "page.json"), gather_evidence(Bundle.open(exported)))
    validator.validate(json.loads((tmp_path / "page.json").read_text()))


def old_map(record: dict[str, Any]) -> None:
    del record["parity"]["candidates"][0]["worst_map"]["pictures"]


def no_number(record: dict[str, Any]) -> None:
    record["parity"]["candidates"][0]["worst"]["token_cosine"] = "NaN"


@pytest.mark.parametrize("change", [old_map, no_number])
def test_what_may_be_otherwise_is_valid(
    change: Callable[[dict[str, Any]], None], validator: Any, twin: dict[str, Any], tmp_path: Path
) -> None:
    record = copy.deepcopy(twin)
    change(record)
    validator.validate(record)
    (tmp_path / "page.json").write_text(json.dumps(record))
    read_evidence(tmp_path / "page.json")


SPOILT: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "another version": (("schema",), 2),
    "no version": (("schema",), None),
    "a figure is a word": (("parity", "candidates", 0, "worst", "token_cosine"), "nearly one"),
    "a verdict is a number": (("parity", "passed"), 1),
    "a count is a fraction": (("latency", "blocks"), 1.5),
    "a kind that is none": (("parity", "candidates", 0, "clips", 0, "kind"), "painted"),
    "a list is a word": (("parity", "invalid"), "none"),
    "a name is null": (("subject", "name"), None),
    "a limit is a list": (("parity", "candidates", 0, "limits", "embedding"), [1.0]),
    "a key too many": (("subject", "colour"), "blue"),
    "a key too few": (("subject", "name"), ...),
    "the map's rows are missing": (("parity", "candidates", 0, "worst_map", "distances_THW"), ...),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_twin_is_refused_by_the_schema_and_by_the_reader(
    name: str, validator: Any, twin: dict[str, Any], tmp_path: Path
) -> None:
    (*path, last), value = SPOILT[name]
    record: Any = copy.deepcopy(twin)
    place = record
    for step in path:
        place = place[step]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    assert not validator.is_valid(record)
    (tmp_path / "page.json").write_text(json.dumps(record))
    with pytest.raises(BundleError):
        read_evidence(tmp_path / "page.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A pair."""

    pair: tuple[int, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """What our reports do not have, and the reader takes."""

    branches: "tuple[Tree, ...]"
    leaf: Leaf | None
    size: int | Literal["dynamic"]


@pytest.mark.parametrize(
    ("record", "is_valid"),
    [
        ({"branches": [], "leaf": {"pair": [1, "a"]}, "size": "dynamic"}, True),
        ({"branches": [{"branches": [], "leaf": None, "size": 2}], "leaf": None, "size": 3}, True),
        ({"branches": [{"branches": [], "leaf": None}], "leaf": None, "size": 3}, False),
        ({"branches": [], "leaf": {"pair": [1]}, "size": 3}, False),
        ({"branches": [], "leaf": {"pair": [1, "a", 2]}, "size": 3}, False),
        ({"branches": [], "leaf": {"pair": ["a", 1]}, "size": 3}, False),
        ({"branches": [], "leaf": None, "size": "static"}, False),
    ],
)
def test_schema_and_reader_agree_on_every_type(record: dict[str, Any], is_valid: bool) -> None:
    described = jsonschema.Draft202012Validator(describe_record(Tree))
    assert described.is_valid(spell_numbers(record)) is is_valid
    if is_valid:
        assert isinstance(read_record(Tree, record, "tree"), Tree)
    else:
        with pytest.raises(BundleError):
            read_record(Tree, record, "tree")


def test_a_type_that_nothing_reads_is_an_error() -> None:
    @dataclass(frozen=True)
    class Odd:
        """Of bytes."""

        held: bytes

    with pytest.raises(TypeError, match="no type that a record of ours is read with"):
        describe_record(Odd)
