"""What would the encoder say of tokens that it has not seen?

Axes: B batch, N tokens, K context tokens, L target tokens, D channels of a token of the encoder, E of the predictor.
"""

import torch
from torch import Tensor, nn

from vjepa2.errors import SpecError
from vjepa2.head_specs import PredictorSpec
from vjepa2.layers import LAYER_NORM_EPS, Block, RotaryTable
from vjepa2.masks import check_ids
from vjepa2.spec import ClipSpec

_MASK = 1  # of several learnt mask tokens, the one that every inference path of the original takes


class Predictor(nn.Module):
    """The masked predictor of V-JEPA 2 and 2.1 for tokens of clips of one shape.

    `clip` may be longer than the encoder's: what lies behind is the future. Parameter names are the original ones.
    """

    def __init__(self, spec: PredictorSpec, clip: ClipSpec) -> None:
        super().__init__()
        self.spec, self.clip = spec, clip
        self.predictor_embed = _make_embedding(spec)
        self.mask_tokens = nn.ParameterList(nn.Parameter(torch.zeros(1, 1, spec.dim)) for _ in range(spec.mask_tokens))
        self.repeat = repeat_token  # swapped when a graph is traced
        self.rotary = RotaryTable(clip, spec.dim // spec.heads, spec.positions, spec.side)
        self.predictor_blocks = nn.ModuleList(Block(spec.dim, spec.heads, spec.mlp_dim) for _ in range(spec.depth))
        self.predictor_norm = nn.LayerNorm(spec.dim, eps=LAYER_NORM_EPS)
        self.predictor_proj = nn.Linear(spec.dim, spec.predicted_dim)
        if spec.has_modalities:
            self.video_mod_embed = nn.Parameter(torch.zeros(1, 1, spec.dim))
            self.img_mod_embed = nn.Parameter(torch.zeros(1, 1, spec.dim))
            self.predictor_proj_context = nn.Linear(spec.dim, spec.predicted_dim)

    @property
    def idle_parameters(self) -> dict[str, nn.Parameter]:
        """What `forward` at its default mask does not use."""
        other = "video_mod_embed" if self.clip.is_image else "img_mod_embed"
        return {
            name: value
            for name, value in self.named_parameters()
            if name.startswith((other, "predictor_proj_context."))
            or (name.startswith("mask_tokens.") and name != f"mask_tokens.{_MASK}")
        }

    def predict(
        self, tokens_BKD: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor, *, mask_index: int = _MASK
    ) -> Tensor:
        """Predicted tokens `[B, L, D]` at `target_ids`, in their order, from the encoder's tokens at `context_ids`.

        Ids are int64, in any order, and number this predictor's tokens, column fastest.
        """
        self._check(tokens_BKD, context_ids_BK, target_ids_BL, mask_index)
        predicted_BLD: Tensor = self(tokens_BKD, context_ids_BK, target_ids_BL, mask_index)
        return predicted_BLD

    def predict_both(
        self, tokens_BKD: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor, *, mask_index: int = _MASK
    ) -> tuple[Tensor, Tensor]:
        """The predicted tokens `[B, L, D]`, and V-JEPA 2.1's second output, those at the context `[B, K, D]`."""
        self._check(tokens_BKD, context_ids_BK, target_ids_BL, mask_index)
        if not self.spec.has_modalities:
            raise SpecError("only V-JEPA 2.1's predictor has a projection for context tokens; use predict")
        x_BNE = self._run_blocks(tokens_BKD, context_ids_BK, target_ids_BL, mask_index)
        count = context_ids_BK.shape[1]
        return self.predictor_proj(x_BNE[:, count:]), self.predictor_proj_context(x_BNE[:, :count])

    def forward(
        self, tokens_BKD: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor, mask_index: int = _MASK
    ) -> Tensor:
        """As `predict`, and unchecked: what is traced."""
        x_BNE = self._run_blocks(tokens_BKD, context_ids_BK, target_ids_BL, mask_index)
        predicted_BLD: Tensor = self.predictor_proj(x_BNE[:, context_ids_BK.shape[1] :])
        return predicted_BLD

    def _run_blocks(self, tokens_BKD: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor, mask_index: int) -> Tensor:
        """The normed stream, context first; attention does not mind the order, so nothing is sorted."""
        masks_BLE = self.repeat(self.mask_tokens[mask_index], len(tokens_BKD), target_ids_BL.shape[1])
        x_BNE = torch.cat([self.predictor_embed(tokens_BKD), masks_BLE], dim=1)
        if self.spec.has_modalities:
            x_BNE = x_BNE + (self.img_mod_embed if self.clip.is_image else self.video_mod_embed)
        turn = self.rotary.at(torch.cat([context_ids_BK, target_ids_BL], dim=1))
        for block in self.predictor_blocks:
            x_BNE = block(x_BNE, turn)
        normed_BNE: Tensor = self.predictor_norm(x_BNE)
        return normed_BNE

    def _check(self, tokens_BKD: Tensor, context_ids_BK: Tensor, target_ids_BL: Tensor, mask_index: int) -> None:
        check_ids("context_ids", context_ids_BK, len(tokens_BKD), self.clip.tokens)
        check_ids("target_ids", target_ids_BL, len(tokens_BKD), self.clip.tokens)
        must = (*context_ids_BK.shape, self.spec.levels * self.spec.encoder_dim)
        if tokens_BKD.shape != must:
            raise SpecError(
                f"tokens have shape {list(tokens_BKD.shape)}; for these context_ids it must be {list(must)}"
            )
        if not 0 <= mask_index < self.spec.mask_tokens:
            raise SpecError(f"mask_index is {mask_index}; this predictor has 0 to {self.spec.mask_tokens - 1}")


def repeat_token(token_11E: Tensor, batch: int, count: int) -> Tensor:
    """The same token `[B, L, E]` everywhere."""
    return token_11E.expand(batch, count, -1)


def _make_embedding(spec: PredictorSpec) -> nn.Module:
    last = nn.Linear(spec.encoder_dim, spec.dim)
    if spec.levels == 1:
        return last
    return nn.Sequential(nn.Linear(spec.levels * spec.encoder_dim, spec.encoder_dim), nn.GELU(), last)
