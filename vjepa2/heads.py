"""What stands on the encoder: so far, a classifier of images.

Axes: B batch, C colours, H, W pixels, D channels of a token, L classes.
"""

from torch import Tensor, nn

from vjepa2.encoder import Encoder


class ImageClassifier(nn.Module):
    """Encoder, mean over tokens, one linear layer; an image is a clip of equal frames."""

    def __init__(self, encoder: Encoder, classes: int = 1000) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.spec.dim, classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """Logits `[B, L]` of normalised float images."""
        clips_BTCHW = images_BCHW[:, None].expand(-1, self.encoder.clip.frames, -1, -1, -1)
        return self.classify(self.encoder(clips_BTCHW).mean(dim=1))

    def classify(self, embeddings_BD: Tensor) -> Tensor:
        """Logits `[B, L]` of mean tokens."""
        logits_BL: Tensor = self.head(embeddings_BD)
        return logits_BL
