"""What would a camera see next if a robot did this: V-JEPA 2-AC.

Axes: B batch, S steps, G tokens of one step's image, N = S * G, M = S * (G + 2) with each step's action and state,
D channels of a token of the encoder, E of the predictor, C numbers of an action or a state.
"""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.head_specs import ActionSpec
from vjepa2.layers import LAYER_NORM_EPS, Block, FixedTables, RotaryTable
from vjepa2.spec import ClipSpec


class ActionPredictor(nn.Module):
    """Predicts the tokens of each next image from images, actions and states so far; `clip` has two frames a step.

    Parameter names are the original ones.
    """

    def __init__(self, spec: ActionSpec, clip: ClipSpec) -> None:
        super().__init__()
        self.spec, self.clip = spec, clip
        self.predictor_embed = nn.Linear(spec.encoder_dim, spec.dim)
        self.action_encoder = nn.Linear(spec.action_dim, spec.dim)
        self.state_encoder = nn.Linear(spec.action_dim, spec.dim)
        self.extrinsics_encoder = nn.Linear(spec.action_dim - 1, spec.dim)  # in the file, and never used
        self.rotary = RotaryTable(clip, spec.dim // spec.heads, "tiled")
        self.order = _StepOrder(clip)
        self.predictor_blocks = nn.ModuleList(Block(spec.dim, spec.heads, spec.mlp_dim) for _ in range(spec.depth))
        self.predictor_norm = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(spec.dim, spec.encoder_dim)

    @property
    def idle_parameters(self) -> dict[str, nn.Parameter]:
        """What the file holds and nothing uses."""
        return {name: value for name, value in self.named_parameters() if name.startswith("extrinsics_encoder.")}

    def predict(self, tokens_BND: Tensor, actions_BSC: Tensor, states_BSC: Tensor) -> Tensor:
        """Tokens `[B, N, D]`: those of step i are what the image after step i is predicted to be.

        Tokens come from `encode_steps`. Any number of steps up to the clip's; step i sees no later one.
        """
        self._check(tokens_BND, actions_BSC, states_BSC)
        predicted_BND: Tensor = self(tokens_BND, actions_BSC, states_BSC)
        return predicted_BND

    def rollout(self, tokens_BND: Tensor, actions_BSC: Tensor, states_BSC: Tensor) -> Tensor:
        """The normed tokens of every image that follows those given, each predicted from the ones before it.

        `tokens_BND` are of the first images, one or more, and actions and states of S steps: of F first images come
        S - F + 1 more, `[B, (S - F + 1) * G, D]`.
        """
        each = self.order.tokens_per_step
        given, steps = tokens_BND.shape[1] // each, actions_BSC.shape[1]
        if not 1 <= given <= steps:
            raise SpecError(f"there are images of {given} steps and actions of {steps}; give 1 to {steps} images")
        self._check(tokens_BND, actions_BSC[:, :given], states_BSC[:, :given])
        self._check_steps(actions_BSC, states_BSC, steps)
        for step in range(given, steps + 1):
            predicted_BND = self(tokens_BND, actions_BSC[:, :step], states_BSC[:, :step])
            tokens_BND = torch.cat([tokens_BND, normalise_tokens(predicted_BND[:, -each:])], dim=1)
        return tokens_BND[:, given * each :]

    def forward(self, tokens_BND: Tensor, actions_BSC: Tensor, states_BSC: Tensor) -> Tensor:
        """As `predict`, and unchecked: what is traced."""
        each = self.order.tokens_per_step
        batch, steps, _ = actions_BSC.shape
        images_BSGE = self.predictor_embed(tokens_BND).reshape(batch, steps, each, self.spec.dim)
        actions_BSGE = self.action_encoder(actions_BSC)[:, :, None]
        states_BSGE = self.state_encoder(states_BSC)[:, :, None]
        x_BME = torch.cat([actions_BSGE, states_BSGE, images_BSGE], dim=2).flatten(1, 2)
        count = x_BME.shape[1]
        turn = self.rotary.at(self.order.ids_1M[:, :count])
        mask_11MM = self.order.mask_11MM
        if count < mask_11MM.shape[-1]:  # of the whole mask, a graph would hold a copy
            mask_11MM = mask_11MM[..., :count, :count]
        for block in self.predictor_blocks:
            x_BME = block(x_BME, turn, mask_11MM)
        x_BNE = x_BME.reshape(batch, steps, each + 2, self.spec.dim)[:, :, 2:].flatten(1, 2)
        predicted_BND: Tensor = self.predictor_proj(self.predictor_norm(x_BNE))
        return predicted_BND

    def _check(self, tokens_BND: Tensor, actions_BSC: Tensor, states_BSC: Tensor) -> None:
        each = self.order.tokens_per_step
        steps = tokens_BND.shape[1] // each
        must = (len(tokens_BND), steps * each, self.spec.encoder_dim)
        if tokens_BND.shape != must or not 1 <= steps <= self.clip.grid[0]:
            raise SpecError(
                f"tokens have shape {list(tokens_BND.shape)}; they must be [B, steps * {each}, "
                f"{self.spec.encoder_dim}] of 1 to {self.clip.grid[0]} steps"
            )
        self._check_steps(actions_BSC, states_BSC, steps)

    def _check_steps(self, actions_BSC: Tensor, states_BSC: Tensor, steps: int) -> None:
        must = (len(actions_BSC), steps, self.spec.action_dim)
        for name, given in (("actions", actions_BSC), ("states", states_BSC)):
            if given.shape != must:
                raise SpecError(f"{name} have shape {list(given.shape)}; they must be {list(must)}")
        if steps > self.clip.grid[0]:
            raise SpecError(f"there are actions of {steps} steps; this predictor is made for {self.clip.grid[0]}")


def encode_steps(encoder: Encoder, images_BSCHW: Tensor) -> Tensor:
    """Normed tokens `[B, S * G, D]` of images that are encoded one by one, each as a clip of two equal frames."""
    tokens_BND: Tensor = encoder(double_images(images_BSCHW))
    return normalise_tokens(tokens_BND.reshape(len(images_BSCHW), -1, tokens_BND.shape[-1]))


def double_images(images: Tensor) -> Tensor:
    """Clips `[B * S, 2, ...]` of two equal frames, of images `[B, S, ...]`."""
    clips = images.flatten(0, 1)[:, None]
    return torch.cat([clips, clips], dim=1)


def normalise_tokens(tokens_BND: Tensor) -> Tensor:
    """LayerNorm without gain or bias, between the encoder and the predictor and after each of its steps."""
    return F.layer_norm(tokens_BND, tokens_BND.shape[-1:])


class _StepOrder(FixedTables):
    """Where the tokens of a sequence of steps are, and which of them see which."""

    ids_1M: Tensor
    mask_11MM: Tensor

    def __init__(self, clip: ClipSpec) -> None:
        super().__init__()
        steps, rows, columns = clip.grid
        self.tokens_per_step = each = rows * columns
        # an action and a state turn with their step's time alone, which is what its first token does
        within = np.concatenate([[0, 0], np.arange(each)])
        ids_1M = (np.arange(steps)[:, None] * each + within).reshape(1, -1)
        step_M = np.repeat(np.arange(steps), each + 2)
        self.register_buffer("ids_1M", torch.from_numpy(ids_1M), persistent=False)
        mask_11MM = torch.from_numpy(step_M[:, None] >= step_M)[None, None]
        self.register_buffer("mask_11MM", mask_11MM, persistent=False)
