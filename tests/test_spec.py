"""Do the integers of models and clips fit together, and are those of the table the released ones?"""

from dataclasses import replace

import pytest

from tests.conftest import tiny_spec
from vjepa2.errors import SpecError, UnknownNameError
from vjepa2.registry import RELEASES, find_release
from vjepa2.spec import ClipSpec


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("vitl", 303_885_312), ("vith", 631_648_000), ("vitg", 1_012_173_952), ("vitg-384", 1_012_173_952)],
)
def test_parameter_counts_are_those_of_the_released_files(name: str, parameters: int) -> None:
    assert find_release(name).spec.parameters == parameters


def test_flops_of_vitl_and_vitg() -> None:
    small, large = ClipSpec(frames=16, height=256, width=256), ClipSpec(frames=64, height=384, width=384)
    assert round(RELEASES["vitl"].spec.flops(small) / 1e9) == 1656
    assert round(RELEASES["vitg-384"].spec.flops(large) / 1e9) == 113_821


def test_an_unknown_model_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match="'vitx'; choose one of vitl, vith, vitg, vitg-384, vitl-sincos"):
        find_release("vitx")


@pytest.mark.parametrize(
    ("sides", "message"),
    [
        ({"frames": 15}, "frames is 15; it must be a positive multiple of 2"),
        ({"frames": 0}, "frames is 0; it must be a positive multiple of 2"),
        ({"height": 250}, "height is 250; it must be a positive multiple of 16"),
        ({"width": -16}, "width is -16; it must be a positive multiple of 16"),
        ({"tubelet": 0}, "tubelet is 0"),
    ],
)
def test_a_clip_that_cannot_be_cut_is_refused(sides: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ClipSpec(**({"frames": 16, "height": 256, "width": 256} | sides))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"heads": 5}, "dim is 192; it must be a multiple of heads, 5"),
        ({"depth": 0}, "depth is 0; it must be at least 1"),
        ({"heads": 64}, "head_dim is 3; rotary positions need an even one"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused(numbers: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        replace(tiny_spec(), **numbers)  # type: ignore[arg-type]
