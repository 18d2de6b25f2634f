"""Do released layouts load, strictly, and does a wrong file say what is wrong with it?"""

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.conftest import SQUARE_CLIP, tiny_encoder, tiny_spec
from tests.released_files import assert_equal, config_of, meta_file
from vjepa2 import checkpoints
from vjepa2.checkpoints import Request, load_checkpoint, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import CheckpointError, SpecError
from vjepa2.names import huggingface_names, meta_name, to_huggingface
from vjepa2.spec import ModelSpec
from vjepa2.weights import RANDOM_WARNING

SPEC = tiny_spec(clip=SQUARE_CLIP)


def write_config(folder: Path, **changes: object) -> None:
    config = {"model_type": "vjepa2", "hidden_act": "gelu", **config_of(SPEC, SPEC.clip)}
    (folder / "config.json").write_text(json.dumps(config | changes))


def huggingface_state(encoder: Encoder, prefix: str = "") -> dict[str, Tensor]:
    """As in the released files: the encoder, and parts that an encoder does not have."""
    state = {prefix + name: value.contiguous() for name, value in to_huggingface(encoder.state_dict()).items()}
    state[f"{prefix}predictor.layernorm.weight"] = torch.ones(4)
    if prefix:
        state["pooler.query_tokens"], state["classifier.weight"] = torch.ones(4), torch.ones(4)
    return state


@pytest.fixture
def encoder() -> Encoder:
    return tiny_encoder(SPEC, seed=5)


@pytest.fixture
def folder(encoder: Encoder, tmp_path: Path) -> Path:
    """A checkpoint in Hugging Face's layout."""
    write_config(tmp_path)
    save_file(huggingface_state(encoder), tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_in_hugging_face_layout_loads(folder: Path, encoder: Encoder) -> None:
    loaded, source = load_checkpoint(Request(source=str(folder)))
    assert_equal(loaded, encoder)
    assert loaded.clip == SQUARE_CLIP
    assert sorted(source.files) == ["config.json", "model.safetensors"]
    assert source.warning is None


def test_the_encoder_of_a_classification_model_loads(folder: Path, encoder: Encoder) -> None:
    save_file(huggingface_state(encoder, "vjepa2."), folder / "model.safetensors")
    assert_equal(load_encoder(folder), encoder)


def test_shards_load(folder: Path, encoder: Encoder) -> None:
    state = huggingface_state(encoder)
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict[str, Tensor]] = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for number, name in enumerate(state):
        list(shards.values())[number % 2][name] = state[name]
    for file, part in shards.items():
        save_file(part, folder / file)
    table = {name: file for file, part in shards.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    assert_equal(load_encoder(folder), encoder)
    (folder / "model-2.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"names the shard 'model-2.safetensors'; it must lie beside it"):
        load_encoder(folder)


def test_a_shard_outside_the_folder_is_refused(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"names the shard '../x.safetensors'"):
        load_encoder(folder)


@pytest.mark.parametrize("key", ["encoder", "target_encoder"])
def test_a_meta_checkpoint_loads(key: str, encoder: Encoder, tmp_path: Path) -> None:
    state = encoder.state_dict() | {"pos_embed": torch.ones(3)}
    file = meta_file(tmp_path / "vit.pt", {key: state}, "module.backbone.")
    loaded, source = load_checkpoint(Request(source=str(file), model=SPEC, key=key))
    assert_equal(loaded, encoder)
    assert (source.name, source.key) == ("vit.pt", key)


def test_a_checkpoint_in_half_precision_loads_as_float32(folder: Path, encoder: Encoder) -> None:
    save_file({name: value.half() for name, value in huggingface_state(encoder).items()}, folder / "model.safetensors")
    assert_equal(load_encoder(folder), encoder.half().float())


def test_names_map_both_ways() -> None:
    names = list(tiny_encoder(SPEC).state_dict())
    theirs = [part for name in names for part in huggingface_names(name)]
    assert len(set(theirs)) == len(theirs) == 6 + SPEC.depth * 16 - 2
    assert huggingface_names("blocks.1.attn.qkv.bias") == (
        "encoder.layer.1.attention.query.bias",
        "encoder.layer.1.attention.key.bias",
        "encoder.layer.1.attention.value.bias",
    )
    for prefix in ("", "module.", "module.backbone.", "backbone."):
        assert [meta_name(prefix + name) for name in names] == names


def test_layers_keep_the_first_blocks(folder: Path, encoder: Encoder) -> None:
    cut, source = load_checkpoint(Request(source=str(folder), layers=1))
    assert cut.spec.depth == source.layers == 1
    assert torch.equal(cut.blocks[0].mlp.fc1.weight, encoder.blocks[0].mlp.fc1.weight)  # type: ignore[union-attr,arg-type]
    with pytest.raises(SpecError, match=f"layers is 3; of {folder.name} keep 1 to 2"):
        load_checkpoint(Request(source=str(folder), layers=3))


def test_random_weights_follow_from_the_seed_and_say_what_they_are() -> None:
    first, source = load_checkpoint(Request(source="random", model=SPEC, seed=1))
    assert_equal(first, load_encoder("random", model=SPEC, seed=1))
    other = load_encoder("random", model=SPEC, seed=2)
    assert not torch.equal(first.norm.weight, other.norm.weight)
    assert source.warning == RANDOM_WARNING
    weights = first.state_dict()
    query, proj = weights["blocks.0.attn.qkv.weight"][: SPEC.dim], weights["blocks.0.attn.proj.weight"]
    assert float(query.std() / proj.std()) == pytest.approx(4.0, rel=0.05)
    for name, value in first.state_dict().items():
        assert value.std() > 0, name


def rename(state: dict[str, Tensor]) -> None:
    state["encoder.layernorm.gain"] = state.pop("encoder.layernorm.weight")


def add(state: dict[str, Tensor]) -> None:
    state["encoder.layer.2.norm1.weight"] = torch.ones(SPEC.dim)


def drop(state: dict[str, Tensor]) -> None:
    del state["encoder.layer.0.attention.key.bias"]


def reshape(state: dict[str, Tensor]) -> None:
    state["encoder.layer.1.mlp.fc1.weight"] = torch.ones(SPEC.mlp_dim, SPEC.dim + 1)


def make_integer(state: dict[str, Tensor]) -> None:
    state["encoder.layernorm.weight"] = torch.ones(SPEC.dim, dtype=torch.int8)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (rename, "missing encoder.layernorm.weight, left over encoder.layernorm.gain"),
        (add, "missing none, left over encoder.layer.2.norm1.weight"),
        (drop, "missing encoder.layer.0.attention.key.bias, left over none"),
        (reshape, r"wrong shape blocks.1.mlp.fc1.weight torch.float32 \[384, 193\], must be float \[384, 192\]"),
        (make_integer, r"wrong shape norm.weight torch.int8 \[192\], must be float"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(
    spoil: Callable[[dict[str, Tensor]], None], message: str, folder: Path
) -> None:
    state = load_file(folder / "model.safetensors")
    spoil(state)
    save_file(state, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_encoder(folder)


def test_a_truncated_file_is_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model.safetensors is not a whole safetensors file"):
        load_encoder(folder)


def test_a_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no config.json; give a folder in Hugging Face's layout"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vit"}, "is of model_type 'vit', not 'vjepa2'"),
        ({"hidden_act": "gelu_new"}, "has hidden_act 'gelu_new'; this encoder needs 'gelu'"),
        ({"layer_norm_eps": 1e-5}, "has layer_norm_eps 1e-05"),
        ({"num_attention_heads": None}, "lacks a number"),
    ],
)
def test_a_config_of_another_model_is_refused(changes: dict[str, object], message: str, folder: Path) -> None:
    write_config(folder, **changes)
    with pytest.raises(CheckpointError, match=message):
        load_encoder(folder)


def test_a_config_that_is_not_json_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        load_encoder(folder)


def test_a_folder_of_another_model_than_asked_for_is_refused(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"holds ModelSpec\(.*dim=192.*; vitl is ModelSpec\(.*dim=1024"):
        load_encoder(folder, model="vitl")


class Runs:
    """Unpickling this would leave a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("legacy", [False, True])
def test_code_in_a_pickle_is_not_run(legacy: bool, tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pt", tmp_path / "ran"
    content = {"encoder": {"weight": Runs(mark)}}
    if legacy:
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file)
    with pytest.raises(CheckpointError, match="is not a checkpoint of tensors alone, or not whole"):
        load_encoder(file, model=SPEC, key="encoder")
    assert not mark.exists()


def test_a_truncated_meta_checkpoint_is_refused(encoder: Encoder, tmp_path: Path) -> None:
    file = tmp_path / "vit.pt"
    torch.save({"encoder": encoder.state_dict()}, file)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="not whole"):
        load_encoder(file, model=SPEC, key="encoder")


def test_a_key_that_the_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vit.pt"
    torch.save({"encoder": {}, "epoch": 1}, file)
    with pytest.raises(CheckpointError, match=r"no state dict under 'target_encoder'; it holds \['encoder', 'epoch'\]"):
        load_encoder(file, model=SPEC, key="target_encoder")


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("random", {}, "random does not say which model it is; name one of vitl"),
        ("random", {"model": "vitx"}, "no model is named 'vitx'"),
        ("random", {"model": "vitl", "key": "encoder"}, "random weights have no key; random was given 'encoder'"),
        ("random", {"model": "vitl", "revision": "main"}, "random weights have no revisions"),
        ("random", {"model": "vitl", "seed": -1}, "seed is -1; it must be from 0"),
        ("nothing-here", {}, "'nothing-here' is no folder, no file, no Hugging Face id and no released model"),
        ("vitl-sincos", {}, "no released model"),
        ("vitl", {"seed": 3}, "only random weights take a seed; vitl was given 3"),
        ("vitl", {"key": "encoder"}, "only a Meta .pt file takes a key"),
    ],
)
def test_options_that_do_not_go_with_the_source_are_refused(
    source: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(Exception, match=message) as caught:
        load_encoder(source, **options)  # type: ignore[arg-type]
    assert getattr(caught.value, "exit_code", None) == 2


def test_a_local_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="a local folder has no revisions"):
        load_encoder(folder, revision="main")


def test_a_meta_file_needs_a_key(tmp_path: Path) -> None:
    (tmp_path / "vit.pt").touch()
    with pytest.raises(CheckpointError, match="key is None; choose encoder or target_encoder"):
        load_encoder(tmp_path / "vit.pt", model=SPEC)


def test_a_released_name_fetches_its_pinned_revision(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(repository: str, revision: str | None) -> tuple[Path, str]:
        asked.append((repository, revision))
        return folder, "c0ffee"

    monkeypatch.setattr(checkpoints, "fetch_repository", fetch)
    with pytest.raises(CheckpointError, match=r"vjepa2-vitl-fpc64-256 holds ModelSpec\(.*dim=192"):
        load_encoder("vitl")
    encoder, source = load_checkpoint(Request(source="facebook/some-fine-tuning", revision="abc"))
    assert asked == [
        ("facebook/vjepa2-vitl-fpc64-256", "b3c1679b7c34d3255ef3547f27c7b226aefab26f"),
        ("facebook/some-fine-tuning", "abc"),
    ]
    assert isinstance(encoder.spec, ModelSpec)
    assert (source.name, source.revision) == ("facebook/some-fine-tuning", "c0ffee")


def test_a_repository_that_cannot_be_fetched_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"facebook/nothing at its newest revision could not be fetched: .*"):
        load_encoder("facebook/nothing")
