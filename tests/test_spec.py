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


@pytest.mark.parametrize(
    ("name", "layers", "levels"),
    [
        ("vitb-2.1", 4, (0, 1, 2, 3)),
        ("vitb-2.1", 6, (0, 2, 3, 5)),
        ("vitl-2.1", 12, (2, 5, 8, 11)),
        ("vitG-2.1", 48, (11, 23, 37, 47)),
        ("vitl", 1, ()),
    ],
)
def test_a_cut_model_has_its_levels_evenly_up_to_its_last_block(
    name: str, layers: int, levels: tuple[int, ...]
) -> None:
    cut = RELEASES[name].spec.cut(layers)
    assert (cut.depth, cut.levels) == (layers, levels)
    assert replace(cut, depth=RELEASES[name].spec.depth, levels=RELEASES[name].spec.levels) == RELEASES[name].spec


def test_an_even_spread_is_what_the_released_models_but_the_largest_have() -> None:
    for name in ("vitb-2.1", "vitl-2.1", "vitg-2.1"):
        spec = RELEASES[name].spec
        assert (
            replace(spec, depth=2 * spec.depth, levels=(*spec.levels[:-1], 2 * spec.depth - 1)).cut(spec.depth) == spec
        )


@pytest.mark.parametrize(
    ("name", "layers", "message"),
    [
        ("vitb-2.1", 3, "layers is 3; of vitb-2.1 keep 4 to 12: each of its 4 levels has a block of its own"),
        ("vitl", 0, "layers is 0; of vitl keep 1 to 24$"),
        ("vitl", 25, "layers is 25; of vitl keep 1 to 24$"),
    ],
)
def test_a_cut_that_cannot_be_made_is_refused(name: str, layers: int, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        RELEASES[name].spec.cut(layers)
