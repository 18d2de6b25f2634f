"""Are the hard weights hard by what comes out of them, and does the recipe stand where a naive one falls?"""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import tiny_spec
from vjepa2.bundle import PORTABLE, WEIGHTS
from vjepa2.checkpoints import Request, load_encoder
from vjepa2.encoder import Encoder
from vjepa2.errors import ExportError, ParityError
from vjepa2.export import calibrate
from vjepa2.export.describe import ExportRequest
from vjepa2.export.evaluate import Evaluation
from vjepa2.export.lower import lower_graph
from vjepa2.export.pipeline import compute_reference, export_bundle, gather_clips
from vjepa2.export.trace import trace_model
from vjepa2.export.weights_file import write_tensors
from vjepa2.hard_weights import HARD_WARNING, fill_hard
from vjepa2.headed import PlainEncoder
from vjepa2.manifest import Precision
from vjepa2.runtime.parity import GATES, measure


def hard_request(**options: object) -> ExportRequest:
    weights = Request(source="hard", model=tiny_spec(), seed=1)
    return ExportRequest(weights=weights, simplify=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("hard", model=tiny_spec(), seed=1)


def test_with_every_result_in_fp16_tokens_are_lost_and_in_float32_none(encoder: Encoder, tmp_path: Path) -> None:
    """What hard means. Float32 is held to its gate by the export below."""
    model = PlainEncoder(encoder)
    reference = compute_reference(model, gather_clips(encoder.clip, None), {})
    traced = trace_model(model, ("tokens", "embedding"))
    write_tensors(tmp_path / WEIGHTS, traced.tensors)
    naive = Evaluation(lower_graph(traced.graph, PORTABLE), tmp_path, "fp16")
    got = [naive.run({"frames": clip[None]}, ["tokens"])["tokens"] for clip in reference.frames_BTHWC]
    assert reference.outputs.tokens_BND is not None
    cosines, _ = measure(reference.outputs.tokens_BND, np.concatenate(got))
    assert cosines.min() <= 0.9
    assert np.mean(cosines < 0.999) >= 0.05
    loud = reference.norms_BN >= GATES["fp16"].quiet * np.median(reference.norms_BN, axis=1, keepdims=True)
    assert 1 <= np.sum(~loud) <= 0.1 * loud.size, "a few tokens are quiet"
    assert np.mean(cosines[loud] < 0.999) >= 0.05, "it is not they that are lost"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_the_recipe_holds_every_token_that_counts(precision: Precision, tmp_path: Path) -> None:
    manifest = export_bundle(hard_request(precision=precision), tmp_path / "bundle").bundle.manifest
    verdict = manifest.parity[PORTABLE]
    assert verdict.passed
    assert verdict.token_cosine > 0.999
    assert (manifest.source.name, manifest.source.warning) == ("hard", HARD_WARNING)
    assert (verdict.quiet_tokens > 0) == (precision != "fp32"), "in float32 they count"


def test_a_calibration_that_cuts_off_what_is_massive_is_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verdict = export_bundle(hard_request(precision="int8"), tmp_path / "bundle").bundle.manifest.parity[PORTABLE]
    assert verdict.token_p01 > 0.95, asdict(verdict)
    monkeypatch.setattr(calibrate, "_PERCENTILE", 99.0)
    with pytest.raises(ParityError, match=r"portable.onnx is outside its gate: .*token_p01 is .* \(evaluator\)"):
        export_bundle(hard_request(precision="int8"), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_few_channels_of_some_tokens_are_massive(encoder: Encoder) -> None:
    streams: list[torch.Tensor] = []
    hook = encoder.blocks[0].register_forward_hook(lambda *given: streams.append(given[2]))
    compute_reference(PlainEncoder(encoder), gather_clips(encoder.clip, None)[:1], {})
    hook.remove()
    largest_NC = streams[0][0].abs()
    assert 1000 < largest_NC.max() < 5000
    assert 0.05 <= np.mean((largest_NC.amax(1) > 256).numpy()) <= 0.5
    assert 1 <= int((largest_NC > 100).any(0).sum()) <= 4


def test_gains_are_unequal_and_next_to_nothing_for_massive_channels(encoder: Encoder) -> None:
    gains = {name: module.weight for name, module in encoder.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    for name, gain in gains.items():
        small = int((gain < 0.01).sum())
        assert small == 4 if name != "norm" else small > 4, "before the last one there is also what makes tokens loud"
        assert gain.max() / torch.quantile(gain, 0.05) > 5


def test_the_seed_makes_the_weights_and_another_one_others() -> None:
    states = []
    for seed in (3, 3, 4):
        with torch.device("meta"):
            made = Encoder(tiny_spec())
        fill_hard(made, seed)
        states.append(made.state_dict())
    first, again, other = states
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["blocks.0.mlp.fc1.weight"], other["blocks.0.mlp.fc1.weight"])


def test_a_head_on_hard_weights_is_random_and_actions_have_none(tmp_path: Path) -> None:
    manifest = export_bundle(hard_request(classes=7), tmp_path / "bundle").bundle.manifest
    assert (manifest.classes, manifest.source.name) == (7, "hard")
    with pytest.raises(ExportError, match="hard weights are those of an encoder of clips; before actions"):
        export_bundle(hard_request(head="action"), tmp_path / "other")
