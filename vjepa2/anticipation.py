"""What will a person in the video do next?

Axes: B batch, T frames, C colours, H, W pixels, N tokens, D channels of a token, L classes.
"""

import torch
from torch import Tensor, nn

from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.heads import PROBE_EPS, PROBE_HEADS, AttentivePooler
from vjepa2.predictor import Predictor

AHEAD = 8  # frames: a second, at the rate of EPIC-KITCHENS-100


class ActionAnticipation(nn.Module):
    """What will a person do: encoder, predictor of the tokens of a coming moment, a pooler of three queries.

    It was trained on EPIC-KITCHENS-100: 32 frames at 8 a second, one second ahead; a score is a sigmoid of a logit.
    """

    def __init__(
        self,
        encoder: Encoder,
        predictor: Predictor,
        classes: tuple[int, int, int],
        *,
        ahead: int = AHEAD,
        heads: int = PROBE_HEADS,
        eps: float = PROBE_EPS,
    ) -> None:
        super().__init__()
        dim, clip = encoder.spec.dim, encoder.clip
        time, rows, columns = clip.grid
        if ahead < 0 or ahead % clip.tubelet:
            raise SpecError(f"ahead is {ahead} frames; it must be a multiple of {clip.tubelet}, or 0: the next moment")
        _check_predictor(encoder, predictor, time + ahead // clip.tubelet + 1)
        self.encoder, self.predictor, self.ahead = encoder, predictor, ahead
        self.pooler = AttentivePooler(dim, heads, queries=3, eps=eps)
        self.verb_classifier = nn.Linear(dim, classes[0])
        self.noun_classifier = nn.Linear(dim, classes[1])
        self.action_classifier = nn.Linear(dim, classes[2])
        self.first_target = clip.tokens + rows * columns * (ahead // clip.tubelet)

    def forward(self, clips_BTCHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of verbs, nouns and actions, each `[B, L]`, of normalised clips that end `ahead` frames before."""
        return self.classify(self.look_ahead(self.encoder(clips_BTCHW)))

    def look_ahead(self, tokens_BND: Tensor) -> Tensor:
        """The encoder's tokens, and behind them the predicted ones of the coming moment."""
        count = tokens_BND.shape[1]
        _, rows, columns = self.encoder.clip.grid
        ids_1N = torch.arange(self.first_target + rows * columns, device=tokens_BND.device)[None]
        predicted_BND = self.predictor(tokens_BND, ids_1N[:, :count], ids_1N[:, self.first_target :])
        return torch.cat([tokens_BND, predicted_BND], dim=1)

    def classify(self, tokens_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of verbs, nouns and actions of what `look_ahead` gives."""
        verb_BD, noun_BD, action_BD = self.pooler(tokens_BND).unbind(1)
        return self.verb_classifier(verb_BD), self.noun_classifier(noun_BD), self.action_classifier(action_BD)


def _check_predictor(encoder: Encoder, predictor: Predictor, times: int) -> None:
    needs, clip = predictor.spec.encoder_dim, predictor.clip
    if needs != encoder.spec.dim or predictor.spec.predicted_dim != needs:
        raise SpecError(
            f"the predictor turns {needs} channels into {predictor.spec.predicted_dim}; {encoder.spec.name} "
            f"has {encoder.spec.dim}: take the predictor of the same file"
        )
    if clip.grid[1:] != encoder.clip.grid[1:] or clip.grid[0] < times:
        raise SpecError(
            f"the predictor's tokens are {clip.grid}; it must look ahead to time {times} of a grid "
            f"{encoder.clip.grid[1]} x {encoder.clip.grid[2]}: build it with a longer clip of that size"
        )
