"""How do a few labelled clips become a classifier? A ridge regression on embeddings: seconds, no training of the model.

    python examples/classify_few_shots.py BUNDLE LABELLED VIDEO.mp4 ...

LABELLED holds a folder for each label, with a few videos in it. How often labels are right is measured on them, each
left out once. Embeddings of random weights mean nothing: they tell pictures apart, not what happens in them.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import numpy.typing as npt

from vjepa2.errors import VideoError, Vjepa2Error
from vjepa2.runtime import EmbeddingEngine

Floats = npt.NDArray[np.floating]
RIDGE = 0.03  # more if labels are doubtful


@dataclass(frozen=True)
class Probe:
    """Scores of labels: `(embedding - mean_D) @ weights_DL + shares_L`."""

    labels: tuple[str, ...]
    mean_D: Floats
    weights_DL: Floats
    shares_L: Floats  # of each label among the clips
    left_out: tuple[str, ...]  # what each clip is called by a probe that was fitted without it

    def classify(self, embeddings_ND: Floats) -> list[str]:
        """The label of the highest score, for each row."""
        scores_NL = (embeddings_ND - self.mean_D) @ self.weights_DL + self.shares_L
        return [self.labels[best] for best in scores_NL.argmax(axis=1)]


def fit_probe(embeddings_ND: Floats, names: Sequence[str]) -> Probe:
    """The probe of clips whose labels are `names`.

    There are fewer clips than dimensions, so it is solved for the clips, by the kernel of all their products. The ridge
    is a share of that kernel's mean diagonal, and so fits embeddings of any length.
    """
    labels = tuple(sorted(set(names)))
    if len(labels) < 2:
        raise VideoError(f"the labels are {list(labels)}; there must be at least two")
    wanted_NL = np.array([[name == label for label in labels] for name in names], float)
    mean_D, shares_L = embeddings_ND.mean(axis=0, dtype=float), wanted_NL.mean(axis=0)
    centred_ND = embeddings_ND - mean_D
    kernel_NN = centred_ND @ centred_ND.T
    ridge_NN = RIDGE * kernel_NN.trace() / len(names) * np.eye(len(names))
    weights_DL = centred_ND.T @ np.linalg.solve(kernel_NN + ridge_NN, wanted_NL - shares_L)
    # how much of a clip's score its own label makes is known, so that nothing is fitted again to leave it out
    own_N = 1 / len(names) + np.diag(np.linalg.solve(kernel_NN + ridge_NN, kernel_NN))
    misses_NL = (wanted_NL - shares_L - centred_ND @ weights_DL) / (1 - own_N)[:, None]
    left_out = tuple(labels[best] for best in (wanted_NL - misses_NL).argmax(axis=1))
    return Probe(labels, mean_D, weights_DL, shares_L, left_out)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("labelled", type=click.Path(path_type=Path))
@click.argument("videos", nargs=-1, required=True, type=click.Path(path_type=Path))
def main(bundle: Path, labelled: Path, videos: tuple[Path, ...]) -> None:
    """Print a label of LABELLED for each of VIDEOS."""
    with EmbeddingEngine.open(bundle) as engine:
        rows = engine.encode_clips(labelled)
        names = [Path(name).parent.name for name in rows.names]
        probe = fit_probe(rows.values, names)
        found = probe.classify(engine.encode(videos))
    right = sum(name == called for name, called in zip(names, probe.left_out, strict=True))
    click.echo(f"{len(probe.labels)} labels, {len(names)} clips; left out, {right} are called right", err=True)
    for name, video in zip(found, videos, strict=True):
        click.echo(f"{name}  {video}")


if __name__ == "__main__":
    try:
        main()
    except Vjepa2Error as error:
        sys.exit(str(error))
