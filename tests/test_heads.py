"""Do the probes compute what they were trained to?"""

import numpy as np
import pytest
import torch

from tests.numpy_family import linear, pooler, state_of, under
from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.heads import AttentivePooler, VideoClassifier
from vjepa2.spec import ClipSpec, ModelSpec
from vjepa2.weights import fill_random

DIM = 528  # of 22 heads and of 16, as ViT-g's 1408
SPEC = ModelSpec(
    name="tiny",
    family="vjepa2",
    dim=48,
    depth=2,
    heads=2,
    mlp_dim=64,
    clip=ClipSpec(frames=4, height=32, width=32),
)


def make_pooler(dim: int, heads: int, queries: int = 1) -> AttentivePooler:
    with torch.device("meta"):
        module = AttentivePooler(dim, heads, queries=queries)
    fill_random(module, seed=0)
    return module.eval()


def make_classifier(spec: ModelSpec = SPEC, classes: int = 5, heads: int = 4) -> VideoClassifier:
    with torch.device("meta"):
        module = VideoClassifier(Encoder(spec), classes, heads=heads)
        encoder = Encoder(spec)
    fill_random(encoder, seed=0)
    fill_random(module, seed=0)
    module.encoder = encoder  # its tables are real
    return module.eval()


@pytest.mark.parametrize("queries", [1, 3])
def test_the_pooler_is_the_one_written_from_the_specification(queries: int) -> None:
    module = make_pooler(48, 4, queries).double()
    tokens = torch.randn(2, 11, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        got = module(tokens).numpy()
    must = pooler(state_of(module), tokens.numpy(), heads=4)
    assert got.shape == (2, queries, 48)
    assert np.abs(got - must).max() <= 1e-9


def test_a_probe_of_22_heads_instead_of_16_gives_something_else() -> None:
    tokens = torch.randn(1, 9, DIM, generator=torch.Generator().manual_seed(1))
    right, wrong = make_pooler(DIM, 16), make_pooler(DIM, 22)
    with torch.inference_mode():
        difference = (right(tokens) - wrong(tokens)).abs().max()
    assert difference > 0.1


def test_the_pooler_does_not_care_about_the_order_of_tokens() -> None:
    module = make_pooler(48, 4).double()
    tokens = torch.randn(1, 11, 48, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.inference_mode():
        difference = (module(tokens) - module(tokens.flip(1))).abs().max()
    assert difference < 1e-12


def test_heads_that_do_not_divide_the_width_are_refused() -> None:
    with pytest.raises(SpecError, match="heads is 5; a pooler of 48 channels needs a number that divides them"):
        AttentivePooler(48, 5)


def test_the_classifier_reads_the_pooled_query() -> None:
    module = make_classifier()
    clips = torch.randn(2, 4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        got, tokens = module(clips), module.encoder(clips)
    state = state_of(module)
    pooled = pooler(under(state, "pooler."), tokens.double().numpy(), heads=4)
    assert np.abs(got.numpy() - linear(state, "linear", pooled[:, 0])).max() <= 1e-5
