"""Is every released checkpoint in the table, as large as it is on disk?"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from transformers import VJEPA2Config, VJEPA2ForVideoClassification, VJEPA2Model

from tests.released_files import config_of, meta_file, probe_state
from vjepa2.action_predictor import ActionPredictor
from vjepa2.anticipation import ActionAnticipation
from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.head_checkpoints import load_anticipation
from vjepa2.head_specs import ActionSpec, PredictorSpec, ProbeSpec
from vjepa2.heads import VideoClassifier
from vjepa2.models_cli import models_command
from vjepa2.names import huggingface_names
from vjepa2.predictor import Predictor
from vjepa2.registry import RELEASES, Release
from vjepa2.spec import ClipSpec

SMALL = ClipSpec(frames=4, height=32, width=32)
ROWS = [pytest.param(release, id=name) for name, release in RELEASES.items()]

# encoder, predictor, probe: what the released files hold
COUNTS = {
    "vitl": (303_885_312, 22_086_016, 0),
    "vith": (631_648_000, 22_282_880, 0),
    "vitg": (1_012_173_952, 22_381_312, 0),
    "vitg-384": (1_012_173_952, 22_381_312, 0),
    "vitl-sincos": (303_885_312, 0, 0),
    "vitl-ssv2": (303_885_312, 22_086_016, 49_514_670),
    "vitg-384-ssv2": (1_012_173_952, 22_381_312, 93_494_190),
    "vitl-diving48": (303_885_312, 22_086_016, 49_385_520),
    "vitg-384-diving48": (1_012_173_952, 22_381_312, 93_316_656),
    "vitl-ek100": (303_885_312, 22_086_016, None),
    "vitg-384-ek100": (1_012_173_952, 22_381_312, None),
    "vitg-ac": (1_012_173_952, 305_220_992, 0),
    "vitb-2.1": (86_833_152, 22_874_752, 0),
    "vitl-2.1": (304_680_960, 22_973_056, 0),
    "vitg-2.1": (1_013_267_968, 55_400_704, 0),
    "vitG-2.1": (1_845_216_768, 59_433_472, 0),
}
TENSORS = {
    "vitl": (292, 160),
    "vith": (388, 160),
    "vitg": (484, 160),
    "vitg-ac": (484, 300),
    "vitb-2.1": (158, 162),
    "vitl-2.1": (302, 162),
    "vitg-2.1": (494, 308),
    "vitG-2.1": (590, 308),
}


def build(release: Release) -> tuple[Encoder, Predictor | ActionPredictor | None]:
    """The row's modules at full size, without memory for weights."""
    with torch.device("meta"):
        encoder = Encoder(release.spec, SMALL)
        if release.action:
            return encoder, ActionPredictor(release.action, SMALL)
        return encoder, Predictor(release.predictor, SMALL) if release.predictor else None


def count(module: nn.Module | None) -> int:
    return sum(value.numel() for value in module.parameters()) if module else 0


def test_the_table_holds_every_release() -> None:
    assert set(COUNTS) == set(RELEASES)


@pytest.mark.parametrize("release", ROWS)
def test_counts_from_integers_are_those_of_the_modules_and_of_the_files(release: Release) -> None:
    encoder, predictor = build(release)
    of_encoder, of_predictor, of_probe = COUNTS[release.spec.name]
    assert count(encoder) == release.spec.parameters == of_encoder
    part = release.predictor or release.action
    assert count(predictor) == (part.parameters if part else 0) == of_predictor
    if of_probe is None:
        assert release.parameters is None
    else:
        assert release.parameters == of_encoder + of_predictor + of_probe


@pytest.mark.parametrize("name", ["vitl-ssv2", "vitg-384-ssv2", "vitl-diving48", "vitg-384-diving48"])
def test_probes_count_as_their_files_do(name: str) -> None:
    release = RELEASES[name]
    assert release.probe is not None
    with torch.device("meta"):
        encoder = Encoder(release.spec, SMALL)
        module = VideoClassifier(encoder, *release.probe.classes)
    assert len([value for key, value in module.named_parameters() if not key.startswith("encoder.")]) == 51
    probe = release.probe.parameters(release.spec.dim, release.probe.classes)
    assert count(module) - count(encoder) == probe == COUNTS[name][2]


@pytest.mark.parametrize("name", ["vitl-ek100", "vitg-384-ek100"])
def test_anticipation_counts_by_its_classes(name: str) -> None:
    """The paper's 97 verbs, 300 nouns and 3568 actions; a checkpoint may have other counts, and says so."""
    release, classes = RELEASES[name], (97, 300, 3568)
    assert release.probe is not None
    assert release.predictor is not None
    with torch.device("meta"):
        encoder = Encoder(release.spec, SMALL)
        predictor = Predictor(release.predictor, ClipSpec(frames=64, height=32, width=32))
        module = ActionAnticipation(encoder, predictor, classes)
    assert count(module) - count(encoder) - count(predictor) == release.probe.parameters(release.spec.dim, classes)


@pytest.mark.parametrize(("name", "pooler"), [("vitl-ek100", 49_338_368), ("vitg-384-ek100", 93_251_840)])
def test_anticipation_from_a_file_counts_by_the_classes_that_the_file_has(
    name: str, pooler: int, tmp_path: Path
) -> None:
    """At full width. What the file holds is zeros, of which it stores one; the encoder is one block without values."""
    release, classes = RELEASES[name], (96, 301, 3571)
    assert release.predictor is not None
    with torch.device("meta"):
        encoder = Encoder(release.spec.cut(1), SMALL)
        predictor = Predictor(release.predictor, ClipSpec(frames=64, height=32, width=32))
        shapes = probe_state(ActionAnticipation(encoder, predictor, classes))
    file = meta_file(
        tmp_path / "ek.pt", {"classifiers": {key: torch.zeros(1).expand(value.shape) for key, value in shapes.items()}}
    )
    module = load_anticipation(file, encoder=encoder, predictor=predictor, model=ProbeSpec(queries=3))
    dim = release.spec.dim
    assert count(module) - count(encoder) - count(predictor) == pooler + (dim + 1) * sum(classes)


@pytest.mark.parametrize("name", TENSORS)
def test_there_are_as_many_tensors_as_in_the_files(name: str) -> None:
    encoder, predictor = build(RELEASES[name])
    assert predictor is not None
    assert (len(encoder.state_dict()), len(predictor.state_dict())) == TENSORS[name]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vitl", 1_303_885_312),
        ("vith", 2_615_723_520),
        ("vitg", 4_138_221_056),
        ("vitl-ssv2", 1_501_943_992),
        ("vitg-384-ssv2", 4_512_197_816),
        ("vitl-diving48", 1_501_427_392),
        ("vitg-384-diving48", 4_511_487_680),
    ],
)
def test_four_bytes_a_parameter_are_the_size_of_the_file(name: str, size: int) -> None:
    parameters = RELEASES[name].parameters
    assert parameters is not None
    assert 4 * parameters == size


@pytest.mark.parametrize(
    ("name", "gflops"),
    [("vith", 21_335), ("vitg", 31_689), ("vitl-ssv2", 1_656), ("vitb-2.1", 15_699), ("vitG-2.1", 176_476)],
)
def test_flops_of_the_default_clip(name: str, gflops: int) -> None:
    assert round(RELEASES[name].spec.flops() / 1e9) == gflops


@pytest.mark.parametrize(("name", "gflops"), [("vitb-2.1", 111), ("vitl-2.1", 381), ("vitg-2.1", 1239)])
def test_flops_of_an_image(name: str, gflops: int) -> None:
    image = ClipSpec(frames=1, height=384, width=384, tubelet=1)
    assert round(RELEASES[name].spec.flops(image) / 1e9) == gflops


@pytest.mark.parametrize("name", [name for name, release in RELEASES.items() if release.repository])
def test_names_and_shapes_at_full_size_are_those_of_transformers(name: str) -> None:
    release = RELEASES[name]
    spec, predictor = release.spec, release.predictor
    assert predictor is not None
    config = VJEPA2Config(**config_of(spec, spec.clip, predictor))
    with torch.device("meta"):
        if release.probe:
            config.num_labels = release.probe.classes[0]
            theirs = VJEPA2ForVideoClassification(config).state_dict()
            module: nn.Module = VideoClassifier(Encoder(spec, SMALL), *release.probe.classes)
        else:
            theirs, module = VJEPA2Model(config).state_dict(), Encoder(spec, SMALL)
        ours = {key.removeprefix("encoder."): value for key, value in module.state_dict().items()}
        ours |= Predictor(predictor, SMALL).state_dict()
    shapes: dict[str, list[int]] = {}
    for key, value in ours.items():
        parts = huggingface_names(key)
        for part in parts:
            shapes[part] = [value.shape[0] // len(parts), *value.shape[1:]]
    for row in range(predictor.mask_tokens):
        shape = shapes.pop(f"predictor.embeddings.mask_tokens.{row}")
        shapes["predictor.embeddings.mask_tokens"] = [predictor.mask_tokens, *shape]
    if release.probe:
        prefixed = {f"vjepa2.{key}" if key.startswith(("encoder.", "predictor.")) else key for key in shapes}
        assert prefixed == set(theirs)
    assert shapes == {key.removeprefix("vjepa2."): list(value.shape) for key, value in theirs.items()}


Shapes = dict[str, tuple[int, ...]]


def layer(name: str, out: int, *into: int) -> Shapes:
    """A linear layer, a projection of patches, or with `out` alone a LayerNorm."""
    return {f"{name}.weight": (out, *into), f"{name}.bias": (out,)}


def blocks(name: str, count: int, dim: int, inner: int) -> Shapes:
    found: Shapes = {}
    for number in range(count):
        at = f"{name}.{number}"
        found |= layer(f"{at}.norm1", dim) | layer(f"{at}.norm2", dim)
        found |= layer(f"{at}.attn.qkv", 3 * dim, dim) | layer(f"{at}.attn.proj", dim, dim)
        found |= layer(f"{at}.mlp.fc1", inner, dim) | layer(f"{at}.mlp.fc2", dim, inner)
    return found


def meta_encoder(dim: int, depth: int, inner: int, *, is_21: bool) -> Shapes:
    found = layer("patch_embed.proj", dim, 3, 2, 16, 16) | blocks("blocks", depth, dim, inner)
    if not is_21:
        return found | layer("norm", dim)
    found |= layer("patch_embed_img.proj", dim, 3, 1, 16, 16)
    found |= {"img_mod_embed": (1, 1, dim), "video_mod_embed": (1, 1, dim)}
    for level in range(4):
        found |= layer(f"norms_block.{level}", dim)
    return found


def meta_predictor(dim: int, depth: int, *, masks: int = 10, out: int | None = None, levels: int = 1) -> Shapes:
    found: Shapes = {f"mask_tokens.{number}": (1, 1, 384) for number in range(masks)}
    found |= blocks("predictor_blocks", depth, 384, 1536) | layer("predictor_norm", 384)
    if levels == 1:
        found |= layer("predictor_embed", 384, dim)
    else:
        found |= layer("predictor_embed.0", dim, levels * dim) | layer("predictor_embed.2", 384, dim)
    if out is None:
        return found | layer("predictor_proj", dim, 384)
    found |= layer("predictor_proj", out, 384) | layer("predictor_proj_context", out, 384)
    return found | {"img_mod_embed": (1, 1, 384), "video_mod_embed": (1, 1, 384)}


def meta_pooler(dim: int, queries: int) -> Shapes:
    at = "pooler.cross_attention_block"
    found: Shapes = {"pooler.query_tokens": (1, queries, dim)}
    found |= blocks("pooler.blocks", 3, dim, 4 * dim)
    found |= layer(f"{at}.norm1", dim) | layer(f"{at}.norm2", dim)
    found |= layer(f"{at}.xattn.q", dim, dim) | layer(f"{at}.xattn.kv", 2 * dim, dim)
    return found | layer(f"{at}.mlp.fc1", 4 * dim, dim) | layer(f"{at}.mlp.fc2", dim, 4 * dim)


AC = (
    layer("predictor_embed", 1024, 1408)
    | layer("action_encoder", 1024, 7)
    | layer("state_encoder", 1024, 7)
    | layer("extrinsics_encoder", 1024, 6)
    | blocks("predictor_blocks", 24, 1024, 4096)
    | layer("predictor_norm", 1024)
    | layer("predictor_proj", 1408, 1024)
)
# what Meta's files hold, written down again from their documentation: encoder and predictor
META = {
    "vitl": (meta_encoder(1024, 24, 4096, is_21=False), meta_predictor(1024, 12)),
    "vith": (meta_encoder(1280, 32, 5120, is_21=False), meta_predictor(1280, 12)),
    "vitg": (meta_encoder(1408, 40, 6144, is_21=False), meta_predictor(1408, 12)),
    "vitg-384": (meta_encoder(1408, 40, 6144, is_21=False), meta_predictor(1408, 12)),
    "vitg-ac": (meta_encoder(1408, 40, 6144, is_21=False), AC),
    "vitb-2.1": (meta_encoder(768, 12, 3072, is_21=True), meta_predictor(768, 12, masks=8, out=1664)),
    "vitl-2.1": (meta_encoder(1024, 24, 4096, is_21=True), meta_predictor(1024, 12, masks=8, out=1664)),
    "vitg-2.1": (meta_encoder(1408, 40, 6144, is_21=True), meta_predictor(1408, 24, masks=8, out=5632, levels=4)),
    "vitG-2.1": (meta_encoder(1664, 48, 8192, is_21=True), meta_predictor(1664, 24, masks=8, out=6656, levels=4)),
}


def shapes_of(module: nn.Module | None) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()} if module else {}


@pytest.mark.parametrize("name", META)
def test_names_and_shapes_at_full_size_are_those_of_metas_files(name: str) -> None:
    encoder, predictor = build(RELEASES[name])
    assert (shapes_of(encoder), shapes_of(predictor)) == META[name]


def test_names_and_shapes_of_probes_at_full_size_are_those_of_metas_files() -> None:
    with torch.device("meta"):
        encoder = Encoder(RELEASES["vitg-384"].spec, SMALL)
        probe = shapes_of(VideoClassifier(encoder, 174))
        future = Predictor(PredictorSpec(encoder_dim=1408), ClipSpec(frames=64, height=32, width=32))
        ahead = shapes_of(ActionAnticipation(encoder, future, (97, 300, 3568)))
    assert own(probe) == meta_pooler(1408, 1) | layer("linear", 174, 1408)
    heads = layer("verb_classifier", 97, 1408) | layer("noun_classifier", 300, 1408)
    assert own(ahead) == meta_pooler(1408, 3) | heads | layer("action_classifier", 3568, 1408)


def own(shapes: Shapes) -> Shapes:
    """Without the modules that a probe stands on."""
    return {name: shape for name, shape in shapes.items() if not name.startswith(("encoder.", "predictor."))}


@pytest.mark.parametrize("release", ROWS)
def test_rows_agree_with_themselves(release: Release) -> None:
    assert (release.repository is None) == (release.revision is None)
    assert (release.file is None) == (not release.keys)
    assert release.base is None or RELEASES[release.base].spec.dim == release.spec.dim
    if release.probe:
        assert all(0 <= layer < release.spec.depth for layer in release.probe.layers)
    if release.predictor and release.spec.levels:
        assert release.predictor.levels in (1, len(release.spec.levels))


def test_a_probe_needs_a_count_for_each_query() -> None:
    probe = RELEASES["vitl-ek100"].probe
    assert probe is not None
    with pytest.raises(SpecError, match="there are 1 counts of classes; a probe of 3 queries has as many"):
        probe.parameters(1024, (5,))


@pytest.mark.parametrize("kind", [PredictorSpec, ActionSpec])
def test_predictors_of_no_width_are_refused(kind: type[PredictorSpec | ActionSpec]) -> None:
    with pytest.raises(SpecError, match="encoder_dim is 0; it must be at least 1"):
        kind(encoder_dim=0)


def test_the_table_is_printed_with_every_row_and_figure() -> None:
    output = CliRunner().invoke(models_command, []).output
    for name, release in RELEASES.items():
        assert f" {name} " in output
        assert f"{release.spec.parameters:,}" in output
        assert (release.file or "none") in output
        assert (release.repository or "") in output
    for text in ("113,821", "305,220,992", "ema_encoder", "encoder or target_encoder", "Apache-2.0", "1,025 a class"):
        assert text in output


def test_the_table_is_data_too() -> None:
    rows = json.loads(CliRunner().invoke(models_command, ["--json", "-"]).output)
    assert [row["name"] for row in rows] == list(RELEASES)
    assert rows[0]["url"] == "https://dl.fbaipublicfiles.com/vjepa2/vitl.pt"
    assert rows[5]["parameters"] == 375_485_998


def test_the_table_needs_neither_torch_nor_numpy() -> None:
    code = "import sys; sys.modules.update(torch=None, numpy=None); from vjepa2.cli import main; main(['models'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True
    )
    assert "vitG-2.1" in done.stdout
