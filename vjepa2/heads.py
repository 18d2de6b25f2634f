"""What stands on the encoder: classifiers of videos and of images.

Axes: B batch, V views, S segments, T frames, C colours, H, W pixels, N tokens, D channels of a token, M queries,
L classes, A heads, K channels per head.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vjepa2.encoder import Encoder
from vjepa2.errors import SpecError
from vjepa2.layers import LAYER_NORM_EPS, Block, Mlp

PROBE_HEADS = 16  # of every released probe, on ViT-g too, whose encoder has 22
PROBE_EPS = 1e-5
PROBE_BLOCKS = 3

# one linear layer, on the mean of the tokens or on what an attentive pooler makes of them
ImageHead = Literal["linear", "attentive"]


# (q_BMD, k_BND, v_BND, heads) -> mixed_BMD; queries may be one clip's, the same for all
CrossCore = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attend_across(q_BMD: Tensor, k_BND: Tensor, v_BND: Tensor, heads: int) -> Tensor:
    """Attention of queries to other tokens by PyTorch's fused kernel."""
    q_BMD = q_BMD.expand(len(k_BND), -1, -1)
    q_BAMK, k_BANK, v_BANK = (x.reshape(*x.shape[:2], heads, -1).transpose(1, 2) for x in (q_BMD, k_BND, v_BND))
    return F.scaled_dot_product_attention(q_BAMK, k_BANK, v_BANK).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Queries look at tokens; unlike `Attention` it has no projection behind it.

    `core` is swapped when a graph is traced.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(dim, dim)
        self.kv = nn.Linear(dim, 2 * dim)
        self.core: CrossCore = attend_across

    def forward(self, queries_BMD: Tensor, tokens_BND: Tensor) -> Tensor:
        """What each query gathers, `[B, M, D]`."""
        k_BND, v_BND = self.kv(tokens_BND).chunk(2, dim=-1)
        return self.core(self.q(queries_BMD), k_BND, v_BND, self.heads)


class CrossBlock(nn.Module):
    """Cross-attention to normed tokens and an MLP, both added to queries that are not normed before attention."""

    def __init__(self, dim: int, heads: int, eps: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.xattn = CrossAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, queries_BMD: Tensor, tokens_BND: Tensor) -> Tensor:
        """The queries `[B, M, D]` after this block."""
        queries_BMD = queries_BMD + self.xattn(queries_BMD, self.norm1(tokens_BND))
        out_BMD: Tensor = queries_BMD + self.mlp(self.norm2(queries_BMD))
        return out_BMD


class AttentivePooler(nn.Module):
    """Any number of tokens to `queries` vectors: self-attention that knows no places, then one cross-attention.

    Meta trained every probe with 16 heads and an epsilon of 1e-5; transformers gives a probe its encoder's heads
    (22 on ViT-g) and 1e-6. The weights fit either way, and other heads give other results.
    """

    def __init__(
        self,
        dim: int,
        heads: int = PROBE_HEADS,
        *,
        queries: int = 1,
        blocks: int = PROBE_BLOCKS,
        eps: float = PROBE_EPS,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise SpecError(f"heads is {heads}; a pooler of {dim} channels needs a number that divides them")
        self.query_tokens = nn.Parameter(torch.zeros(1, queries, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, 4 * dim, eps) for _ in range(blocks))
        self.cross_attention_block = CrossBlock(dim, heads, eps)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        """Pooled vectors `[B, M, D]`; tokens of several clips or layers are concatenated along N."""
        for block in self.blocks:
            tokens_BND = block(tokens_BND)
        pooled_BMD: Tensor = self.cross_attention_block(self.query_tokens, tokens_BND)
        return pooled_BMD


class VideoClassifier(nn.Module):
    """Encoder, attentive pooler, one linear layer.

    The pooler takes the tokens of so many `segments` of a video together, whose frames come one after the other.
    """

    def __init__(
        self,
        encoder: Encoder,
        classes: int,
        *,
        heads: int = PROBE_HEADS,
        eps: float = PROBE_EPS,
        layers: Sequence[int] = (),
        segments: int = 1,
    ) -> None:
        super().__init__()
        if segments < 1:
            raise SpecError(f"segments is {segments}; a classifier looks at one clip of a video at least")
        self.encoder, self.segments = encoder, segments
        self.layers = tuple(layers) or (encoder.spec.depth - 1,)
        self.pooler = AttentivePooler(encoder.spec.dim, heads, eps=eps)
        self.linear = nn.Linear(encoder.spec.dim, classes)

    def forward(self, clips_BTCHW: Tensor) -> Tensor:
        """Logits `[B, L]` of normalised clips, each of all segments."""
        clips = self.cut_segments(clips_BTCHW)
        return self.classify(self.encode_segments(clips.reshape(-1, self.segments, *clips.shape[1:])))

    def score(self, clips_BVSTCHW: Tensor) -> Tensor:
        """Probabilities `[B, L]` of videos: of each view all segments at once, averaged over the views."""
        views = [self.classify(self.encode_segments(clips)).softmax(-1) for clips in clips_BVSTCHW.unbind(1)]
        return torch.stack(views).mean(dim=0)

    def cut_segments(self, frames: Tensor) -> Tensor:
        """Each segment's clip `[B * S, T, ...]`, of the frames `[B, S * T, ...]` of all."""
        each = self.encoder.clip.frames
        if frames.shape[1] != self.segments * each:
            raise SpecError(f"there are {frames.shape[1]} frames; {self.segments} segments have {each} each")
        return frames if self.segments == 1 else frames.reshape(-1, each, *frames.shape[2:])

    def join_segments(self, tokens_BND: Tensor) -> Tensor:
        """The tokens `[B, S * N, D]` of all segments, of those `[B * S, N, D]` of each."""
        _, count, dim = tokens_BND.shape
        return tokens_BND if self.segments == 1 else tokens_BND.reshape(-1, self.segments * count, dim)

    def encode_segments(self, clips_BSTCHW: Tensor) -> Tensor:
        """What the pooler takes, `[B, N, D]`: the tokens of every segment after every one of `layers`."""
        given = self.encoder.encode_layers(clips_BSTCHW.flatten(0, 1), self.layers)
        return torch.cat(given, dim=1).reshape(len(clips_BSTCHW), -1, self.encoder.spec.dim)

    def classify(self, tokens_BND: Tensor) -> Tensor:
        """Logits `[B, L]` of tokens, as `encode_segments` gives them."""
        logits_BL: Tensor = self.linear(self.pooler(tokens_BND)[:, 0])
        return logits_BL


class ImageClassifier(nn.Module):
    """Encoder, mean over tokens or an attentive pooler, one linear layer; an image is a clip of equal frames.

    The pooler has the heads and the epsilon of its encoder, as transformers' VJEPA2ForVideoClassification has.
    """

    def __init__(self, encoder: Encoder, classes: int = 1000, *, head: ImageHead = "linear") -> None:
        super().__init__()
        self.encoder = encoder
        dim, heads = encoder.spec.dim, encoder.spec.heads
        self.pooler = AttentivePooler(dim, heads, eps=LAYER_NORM_EPS) if head == "attentive" else None
        self.head = nn.Linear(dim, classes)
        self.labels: tuple[str, ...] | None = None  # what the classes are called, where that is known

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits `[B, L]` of normalised float images."""
        clips_BTCHW = images_BCHW[:, None].expand(-1, self.encoder.clip.frames, -1, -1, -1)
        return self.classify(self.pool(self.encoder(clips_BTCHW)))

    def pool(self, tokens_BND: Tensor) -> Tensor:
        """One vector `[B, D]` for each image's tokens."""
        if self.pooler is None:
            return tokens_BND.mean(dim=1)
        pooled_BMD: Tensor = self.pooler(tokens_BND)
        return pooled_BMD[:, 0]

    def classify(self, pooled_BD: Tensor) -> Tensor:
        """Logits `[B, L]` of pooled tokens."""
        logits_BL: Tensor = self.head(pooled_BD)
        return logits_BL
