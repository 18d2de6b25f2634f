"""Do predictors and probes load from both layouts, strictly, and stand on the encoder that they were trained on?"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import VJEPA2Config, VJEPA2ForVideoClassification

from tests.conftest import version_21
from tests.released_files import assert_equal, config_of, meta_file, probe_state
from vjepa2 import checkpoints, head_checkpoints
from vjepa2.action_predictor import ActionPredictor
from vjepa2.checkpoints import Request, load_checkpoint, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError, UnknownNameError
from vjepa2.head_checkpoints import load_action_predictor, load_anticipation, load_classifier, load_predictor
from vjepa2.head_specs import ActionSpec, PredictorSpec, ProbeSpec
from vjepa2.heads import VideoClassifier
from vjepa2.names import huggingface_names, to_huggingface, unstack
from vjepa2.predictor import Predictor
from vjepa2.registry import RELEASES, Release
from vjepa2.spec import ClipSpec, ModelSpec

CLIP = ClipSpec(frames=4, height=32, width=32)
SPEC = ModelSpec(name="tiny", family="vjepa2", dim=48, depth=4, heads=2, mlp_dim=96, clip=CLIP)
NEW = version_21(SPEC, (0, 1, 2, 3))
PREDICTOR = PredictorSpec(encoder_dim=48, dim=32, depth=2, heads=2, mlp_dim=64)
NEW_PREDICTOR = replace(PREDICTOR, positions="interleaved", mask_tokens=8, levels=4, out_dim=192, has_modalities=True)
ACTION = ActionSpec(encoder_dim=48, dim=32, depth=2, heads=2, mlp_dim=64)
CONFIG = {"model_type": "vjepa2", **config_of(SPEC, CLIP, PREDICTOR)}


def make_encoder(spec: ModelSpec = SPEC) -> Encoder:
    return load_encoder("random", model=spec, seed=7)


def make_predictor(spec: PredictorSpec = PREDICTOR) -> Predictor:
    return load_predictor("random", model=spec, clip=CLIP, seed=7)


def make_classifier() -> VideoClassifier:
    return load_classifier("random", encoder=make_encoder(), classes=5, seed=7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A classification model in Hugging Face's layout: encoder, predictor and probe."""
    module = make_classifier()
    state = {name.removeprefix("encoder."): value for name, value in module.state_dict().items()}
    theirs = to_huggingface(state) | to_huggingface(make_predictor().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file(
        {
            (f"vjepa2.{name}" if name.startswith(("encoder.", "predictor.")) else name): value.contiguous()
            for name, value in theirs.items()
        },
        tmp_path / "model.safetensors",
    )
    return tmp_path


def test_a_folder_of_a_classification_model_gives_all_its_parts(folder: Path) -> None:
    assert_equal(load_encoder(folder), make_encoder())
    assert_equal(load_predictor(folder), make_predictor())
    assert_equal(load_classifier(folder), make_classifier())
    assert load_predictor(folder).clip == CLIP


def test_a_folder_of_a_pretrained_model_gives_its_predictor(tmp_path: Path) -> None:
    state = to_huggingface(make_encoder().state_dict()) | to_huggingface(make_predictor().state_dict())
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    assert_equal(load_predictor(tmp_path), make_predictor())
    with pytest.raises(CheckpointError, match=r"has no classifier.bias; it is not a file of such a probe"):
        load_classifier(tmp_path)


def test_what_transformers_saves_loads(tmp_path: Path) -> None:
    """Names and layout are those of its own `save_pretrained`, and so are the logits."""
    config = VJEPA2Config(**config_of(SPEC, CLIP, PREDICTOR))
    config.num_labels = 5
    theirs = VJEPA2ForVideoClassification(config)
    theirs.train(False)
    theirs.save_pretrained(tmp_path)
    module = load_classifier(tmp_path, probe="transformers")
    clips = torch.randn(CLIP.shape(2), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert (module(clips) - theirs(clips).logits).abs().max() <= 1e-5
    load_predictor(tmp_path)


@pytest.mark.parametrize("probe", ["meta", "transformers"])
def test_a_probe_has_metas_heads_or_by_option_its_encoders(probe: Any, folder: Path) -> None:
    module = load_classifier(folder, probe=probe)
    block = module.pooler.cross_attention_block
    heads, eps = (16, 1e-5) if probe == "meta" else (2, 1e-6)
    assert (block.xattn.heads, block.norm1.eps) == (heads, eps)
    assert module.pooler.blocks[0].attn.heads == heads  # type: ignore[union-attr]
    assert module.pooler.blocks[0].norm2.eps == eps  # type: ignore[union-attr]


@pytest.mark.parametrize("wrapper", ["", "module.", "module.backbone."])
@pytest.mark.parametrize("spec", [PREDICTOR, NEW_PREDICTOR], ids=["2", "2.1"])
def test_a_predictor_loads_from_a_meta_file(spec: PredictorSpec, wrapper: str, tmp_path: Path) -> None:
    predictor = make_predictor(spec)
    state = predictor.state_dict() | {"predictor_pos_embed": torch.ones(3)}
    file = meta_file(tmp_path / "vit.pt", {"predictor": state}, wrapper)
    assert_equal(load_predictor(file, model=spec, clip=CLIP), predictor)


def test_an_action_predictor_loads_from_a_meta_file(tmp_path: Path) -> None:
    predictor = load_action_predictor("random", model=ACTION, steps=2, size=(32, 32), seed=7)
    file = meta_file(tmp_path / "ac.pt", {"predictor": predictor.state_dict()}, "module.")
    loaded = load_action_predictor(file, model=ACTION, steps=2, size=(32, 32))
    assert isinstance(loaded, ActionPredictor)
    assert loaded.clip.grid == (2, 2, 2)
    assert_equal(loaded, predictor)


def test_a_probe_loads_from_a_meta_file_onto_its_encoder(tmp_path: Path) -> None:
    module = make_classifier()
    loaded = load_classifier(
        meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(module)}),
        encoder=make_encoder(),
        model=ProbeSpec(),
    )
    assert_equal(loaded, module)


def test_anticipation_loads_from_a_meta_file_with_the_counts_that_it_has(tmp_path: Path) -> None:
    encoder, predictor = make_encoder(), load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=16))
    module = load_anticipation("random", encoder=encoder, predictor=predictor, classes=(3, 4, 6), seed=7)
    file = meta_file(tmp_path / "ek.pt", {"classifiers": probe_state(module)})
    loaded = load_anticipation(file, encoder=encoder, predictor=predictor, model=ProbeSpec(queries=3))
    assert loaded.noun_classifier.out_features == 4
    assert_equal(loaded, module)


@pytest.mark.parametrize("key", ["ema_encoder", "target_encoder"])
def test_version_21_takes_the_key_of_its_row(key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = Release(spec=NEW, file="x.pt", keys=(key,), predictor=NEW_PREDICTOR)
    monkeypatch.setattr(checkpoints, "find_release", {"tiny-2.1": row}.__getitem__)
    monkeypatch.setattr(head_checkpoints, "find_release", {"tiny-2.1": row}.__getitem__)
    encoder, predictor = make_encoder(NEW), make_predictor(NEW_PREDICTOR)
    wrong = {name: torch.zeros_like(value) for name, value in encoder.state_dict().items()}
    states = {key: encoder.state_dict(), "encoder": wrong, "predictor": predictor.state_dict()}
    torch.save(
        {name: {f"module.backbone.{part}": value for part, value in state.items()} for name, state in states.items()},
        tmp_path / "x.pt",
    )
    loaded, source = load_checkpoint(Request(source=str(tmp_path / "x.pt"), model="tiny-2.1"))
    assert_equal(loaded, encoder)
    assert source.key == key
    assert_equal(load_predictor(tmp_path / "x.pt", model="tiny-2.1", clip=CLIP), predictor)


def test_a_cut_encoder_of_version_21_has_the_first_blocks_and_every_norm_of_its_file(tmp_path: Path) -> None:
    spec = replace(NEW, depth=6, levels=(1, 2, 4, 5))
    encoder = make_encoder(spec)
    file = meta_file(tmp_path / "x.pt", {"ema_encoder": encoder.state_dict()})
    cut, source = load_checkpoint(Request(source=str(file), model=spec, key="ema_encoder", layers=4))
    assert (cut.spec.levels, source.layers) == ((0, 1, 2, 3), 4)
    kept = encoder.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in cut.state_dict().items())
    assert sum(name.startswith("norms_block.") for name in cut.state_dict()) == 8


def test_released_keys_are_those_of_the_files() -> None:
    keys = {name: row.keys for name, row in RELEASES.items() if name.endswith("2.1")}
    assert keys == {
        "vitb-2.1": ("ema_encoder",),
        "vitl-2.1": ("ema_encoder",),
        "vitg-2.1": ("target_encoder",),
        "vitG-2.1": ("target_encoder",),
    }


def test_every_name_has_one_of_theirs_and_back() -> None:
    module = make_classifier()
    ours = {name.removeprefix("encoder."): value for name, value in module.state_dict().items()}
    ours |= make_predictor().state_dict()
    theirs = [part for name in ours for part in huggingface_names(name)]
    assert len(set(theirs)) == len(theirs)
    assert huggingface_names("predictor_blocks.3.attn.qkv.bias")[1] == "predictor.layer.3.attention.key.bias"
    assert huggingface_names("pooler.query_tokens") == ("pooler.query_tokens",)
    assert huggingface_names("pooler.blocks.2.attn.proj.weight") == (
        "pooler.self_attention_layers.2.self_attn.out_proj.weight",
    )
    assert huggingface_names("pooler.cross_attention_block.xattn.kv.weight") == (
        "pooler.cross_attention_layer.cross_attn.k_proj.weight",
        "pooler.cross_attention_layer.cross_attn.v_proj.weight",
    )
    renamed = to_huggingface(ours)
    assert renamed["predictor.embeddings.mask_tokens"].shape == (10, 1, 1, 32)
    assert torch.equal(unstack(renamed, "")["predictor.embeddings.mask_tokens.3"], ours["mask_tokens.3"])


def rename(state: dict[str, Tensor]) -> None:
    state["pooler.query_token"] = state.pop("pooler.query_tokens")


def drop(state: dict[str, Tensor]) -> None:
    del state["pooler.cross_attention_layer.cross_attn.k_proj.bias"]


def add(state: dict[str, Tensor]) -> None:
    state["classifier.gain"] = torch.ones(5)


def reshape(state: dict[str, Tensor]) -> None:
    state["classifier.weight"] = torch.ones(5, 47)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename, "does not fit the probe: missing pooler.query_tokens, left over pooler.query_token$"),
        (drop, "missing pooler.cross_attention_layer.cross_attn.k_proj.bias, left over none"),
        (add, "missing none, left over classifier.gain"),
        (reshape, r"wrong shape linear.weight torch.float32 \[5, 47\], must be float \[5, 48\]"),
    ],
)
def test_tensors_that_do_not_fit_a_probe_are_listed(
    spoil: Callable[[dict[str, Tensor]], None], message: str, folder: Path
) -> None:
    state = load_file(folder / "model.safetensors")
    spoil(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_classifier(folder)


def test_tensors_that_do_not_fit_a_predictor_are_listed(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["vjepa2.predictor.embeddings.mask_tokens"] = torch.ones(9, 1, 1, 32)
    state["vjepa2.predictor.gain"] = torch.ones(3)
    save_file(state, folder / "model.safetensors")
    message = "does not fit the predictor: missing .*mask_tokens.9, left over vjepa2.predictor.gain"
    with pytest.raises(CheckpointError, match=message):
        load_predictor(folder)


def test_a_probe_of_another_width_is_refused(tmp_path: Path) -> None:
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())})
    wide = load_encoder("random", model=replace(SPEC, name="wide", dim=96))
    with pytest.raises(
        CheckpointError, match=r"a probe of tokens of 48 channels; wide gives 96: put it on the encoder"
    ):
        load_classifier(file, encoder=wide, model=ProbeSpec())


def test_a_probe_whose_row_names_another_encoder_is_refused(tmp_path: Path) -> None:
    """Widths may agree and encoders not; the row knows."""
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())})
    with pytest.raises(CheckpointError, match="vitl-ssv2 stands on vitl; the encoder given is tiny, ModelSpec"):
        load_classifier(file, encoder=make_encoder(), model="vitl-ssv2")


ROWS = {
    "tiny": Release(spec=SPEC),
    "tiny-384": Release(spec=replace(SPEC, name="tiny-384")),
    "tiny-2.1": Release(spec=NEW),
    "tiny-probe": Release(spec=replace(SPEC, name="tiny-probe"), base="tiny", probe=ProbeSpec(classes=(5,))),
    "tiny-ek": Release(spec=replace(SPEC, name="tiny-ek"), base="tiny", probe=ProbeSpec(queries=3)),
}


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table of tiny models: two of one shape, one of version 2.1, and what stands on the first."""
    for module in (checkpoints, head_checkpoints):
        monkeypatch.setattr(module, "RELEASES", ROWS)
        monkeypatch.setattr(module, "find_release", ROWS.__getitem__)


def load_probe(file: Path, encoder: Encoder, model: Any) -> object:
    """Whichever kind of probe the row is of, from its file."""
    if model != "tiny-ek":
        return load_classifier(file, encoder=encoder, model=model)
    predictor = load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=16))
    return load_anticipation(file, encoder=encoder, predictor=predictor, model=model)


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("model", ["tiny-probe", "tiny-ek"])
def test_a_probe_stands_on_no_other_encoder_of_its_width(model: str, tmp_path: Path) -> None:
    """Not on version 2.1's, and not on the same model trained for another size, which only its name tells apart."""
    predictor = load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=16))
    module = (
        load_anticipation("random", encoder=make_encoder(), predictor=predictor, classes=(3, 4, 6), seed=7)
        if model == "tiny-ek"
        else make_classifier()
    )
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(module)})
    for spec in (NEW, replace(SPEC, name="tiny-384")):
        with pytest.raises(CheckpointError, match=f"{model} stands on tiny; the encoder given is {spec.name}, Model"):
            load_probe(file, make_encoder(spec), model)
    load_probe(file, make_encoder(), model)


@pytest.mark.usefixtures("rows")
def test_a_probes_file_alone_does_not_say_where_it_stands(tmp_path: Path) -> None:
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())})
    message = "does not say on which encoder its probe was trained; give model, one of tiny-probe, tiny-ek, or of"
    predictor = load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=16))
    for spec in (SPEC, NEW):
        with pytest.raises(CheckpointError, match=message):
            load_classifier(file, encoder=make_encoder(spec))
        with pytest.raises(CheckpointError, match=message):
            load_anticipation(file, encoder=make_encoder(spec), predictor=predictor)


def test_a_file_of_other_classes_than_its_row_is_refused(tmp_path: Path) -> None:
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())})
    with pytest.raises(CheckpointError, match="holds a probe of 5 classes; the one that was named has 48: name the"):
        load_classifier(file, encoder=make_encoder(), model=ProbeSpec(classes=(48,)))


def test_a_probe_of_another_task_is_refused(tmp_path: Path) -> None:
    file = meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())})
    predictor = load_predictor("random", model=PREDICTOR, clip=replace(CLIP, frames=16))
    with pytest.raises(CheckpointError, match=r"has no verb_classifier.bias, .*; it is not a file of such a probe"):
        load_anticipation(file, encoder=make_encoder(), predictor=predictor, model=ProbeSpec(queries=3))


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_classifier, "holds a probe and no encoder; load the encoder first and give it"),
        (
            lambda file: load_classifier(file, encoder=make_encoder(), model=ProbeSpec(), seed=1),
            "only random weights take a seed",
        ),
        (lambda file: load_classifier("random", encoder=make_encoder()), "need counts of classes for linear; given: "),
        (load_predictor, "does not say which predictor it is; give model, or model and clip"),
        (lambda file: load_predictor(file, model="vitg-ac"), "does not say which predictor it is"),
        (lambda file: load_predictor(file, model=PREDICTOR, clip=CLIP), "has no state dict under 'predictor'"),
        (lambda file: load_predictor("random", model=PREDICTOR, clip=CLIP, revision="a"), "random has no revisions"),
        (lambda file: load_predictor("vitl-2.1"), r"fetch https://dl.fbaipublicfiles.com/vjepa2/vjepa2_1_vitl_dist"),
        (lambda file: load_encoder("vitg-ac"), "is released as a file alone: fetch .*vjepa2-ac-vitg.pt and give"),
        (lambda file: load_action_predictor("vitg-ac"), "vitg-ac is no file; V-JEPA 2-AC is released as a .pt file"),
        (lambda file: load_action_predictor(file, model="vitl"), "vitl has no action-conditioned predictor"),
        (
            lambda file: load_anticipation("vitl-ek100", encoder=make_encoder(), predictor=make_predictor()),
            "vitl-ek100 stands on vitl; the encoder given is tiny",
        ),
        (
            lambda file: load_anticipation("x.pt", encoder=make_encoder(), predictor=make_predictor()),
            "x.pt is no file; anticipation is released as .pt files alone",
        ),
    ],
)
def test_requests_that_cannot_be_met_say_why(load: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(meta_file(tmp_path / "probe.pt", {"classifiers": probe_state(make_classifier())}))


def test_an_unknown_row_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownNameError, match=r"no model is named 'vitz'; choose one of vitl, .*, vitG-2.1"):
        load_predictor("random", model="vitz")


def test_a_released_probe_takes_the_layers_of_its_row(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = RELEASES["vitl-diving48"].probe
    assert known is not None
    row = Release(spec=SPEC, repository="a/b", revision="c", probe=replace(known, classes=(5,), layers=(1, 3)))
    for module in (checkpoints, head_checkpoints):
        monkeypatch.setattr(module, "RELEASES", {"tiny": row})
        monkeypatch.setattr(module, "find_release", {"tiny": row}.__getitem__)
        monkeypatch.setattr(module, "fetch_repository", lambda repository, revision: (folder, revision))
    assert load_classifier("tiny").layers == (1, 3)
    assert load_classifier("a/b").layers == (1, 3)
    assert load_classifier("tiny", probe="transformers").layers == (3,)
