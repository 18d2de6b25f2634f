"""Which images are learnt from, in which order, and what becomes of their pixels?"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vjepa2.errors import ImageError
from vjepa2.image_batches import normalise_pixels, order_epoch, read_batches
from vjepa2.image_folder import Sample, scan_images
from vjepa2.pixels import read_image
from vjepa2.runtime.backends.base import normalise
from vjepa2.runtime.preprocess import fit_clip
from vjepa2.spec import RGB_MEAN, RGB_STD, ClipSpec

CLIP = ClipSpec(frames=2, height=32, width=32)


def write_image(file: Path, seed: int = 0, size: tuple[int, int] = (40, 60)) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of ten images."""
    for name in ("cat", "dog"):
        for number in range(10):
            write_image(tmp_path / name / f"{number}.png", number)
    return tmp_path


def test_a_part_of_every_class_is_held_out_by_seed_alone(folder: Path) -> None:
    first = scan_images(folder, val_fraction=0.3, seed=1)
    assert first.labels == ("cat", "dog")
    assert [sample.label for sample in first.val] == [0, 0, 0, 1, 1, 1]
    assert {sample.file for sample in first.train}.isdisjoint(sample.file for sample in first.val)
    assert len(first.train) == 14
    assert first == scan_images(folder, val_fraction=0.3, seed=1)
    assert first != scan_images(folder, val_fraction=0.3, seed=2)


def test_folders_train_and_val_are_taken_as_they_are(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("val", 1)):
        for name in ("b", "a"):
            for number in range(count):
                write_image(tmp_path / part / name / "deeper" / f"{number}.JPG")
    images = scan_images(tmp_path)
    assert images.labels == ("a", "b")
    assert [sample.label for sample in images.train] == [0, 0, 0, 1, 1, 1]
    assert [sample.label for sample in images.val] == [0, 1]
    with pytest.raises(ImageError, match=r"has a folder val and val_fraction is 0\.5; leave one of them out"):
        scan_images(tmp_path, val_fraction=0.5)
    write_image(tmp_path / "val" / "c" / "0.png")
    with pytest.raises(ImageError, match=r"train and val differ in the classes \['c'\]"):
        scan_images(tmp_path)


def test_what_is_no_image_and_what_is_hidden_is_passed_over(folder: Path) -> None:
    before = scan_images(folder)
    (folder / "cat" / "notes.txt").write_text("miaow")
    (folder / "cat" / "._0.png").write_text("left by a Mac")
    (folder / ".cache").mkdir()
    assert scan_images(folder) == before


def test_a_folder_that_is_none_says_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="nowhere is not a folder; give one that holds a folder of images for each"):
        scan_images(tmp_path / "nowhere")


def test_a_class_without_an_image_is_named(folder: Path) -> None:
    (folder / "eel").mkdir()
    with pytest.raises(ImageError, match=r"has no image in \['eel'\]; fill or remove these folders"):
        scan_images(folder)


def test_one_class_is_too_few(tmp_path: Path) -> None:
    write_image(tmp_path / "cat" / "0.png")
    with pytest.raises(ImageError, match="has 1 class folders; a classifier needs at least two"):
        scan_images(tmp_path)


def test_one_image_cannot_be_split(folder: Path) -> None:
    write_image(folder / "eel" / "0.png")
    with pytest.raises(ImageError, match="eel has one image; to hold one out there must be at least two"):
        scan_images(folder)


@pytest.mark.parametrize("fraction", [0.0, 1.0, float("nan")])
def test_a_part_that_is_none_or_all_is_refused(folder: Path, fraction: float) -> None:
    with pytest.raises(ImageError, match=f"val_fraction is {fraction}; it must lie between 0 and 1"):
        scan_images(folder, val_fraction=fraction)


def test_train_alone_is_refused(tmp_path: Path) -> None:
    write_image(tmp_path / "train" / "cat" / "0.png")
    with pytest.raises(ImageError, match="has 'train' alone of train and val; give both"):
        scan_images(tmp_path)


def test_a_broken_image_is_named(folder: Path) -> None:
    file = folder / "cat" / "3.png"
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"cat/3\.png cannot be read whole .*; mend it or take it out of its folder"):
        read_image(file)
    file.write_bytes(b"this is not a picture")
    with pytest.raises(ImageError, match=r"cat/3\.png is not an image that can be read; mend it"):
        list(read_batches([scan_images(folder).train, scan_images(folder).val], CLIP, workers=2))


def test_an_image_of_more_than_eight_bits_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(ImageError, match=r"deep\.png has pixels of mode I;16; they must be 8-bit"):
        read_image(tmp_path / "deep.png")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_every_eight_bit_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    file = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    Image.new("RGB", (5, 4), (255, 255, 255)).convert(mode).save(file)
    pixels = read_image(file)
    assert pixels.shape == (4, 5, 3)
    assert pixels.dtype == np.uint8
    assert pixels.min() >= 250


def test_a_photograph_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (20, 10)).save(tmp_path / "photo.jpg", exif=exif)
    assert read_image(tmp_path / "photo.jpg").shape == (20, 10, 3)


def test_an_epochs_order_follows_from_seed_and_epoch_alone() -> None:
    samples = [Sample(Path(str(number)), 0) for number in range(50)]
    order = order_epoch(samples, seed=3, epoch=2)
    assert order != samples
    assert sorted(order, key=samples.index) == samples
    assert order == order_epoch(samples, seed=3, epoch=2)
    assert order != order_epoch(samples, seed=3, epoch=1)
    assert order != order_epoch(samples, seed=2, epoch=2)


def test_batches_come_in_order_whatever_the_number_of_workers(folder: Path) -> None:
    train = scan_images(folder).train
    cut = [train[start : start + 3] for start in range(0, len(train), 3)]
    alone = list(read_batches(cut, CLIP, workers=1))
    many = list(read_batches(cut, CLIP, workers=4))
    assert [len(batch.labels_B) for batch in alone] == [3, 3, 3, 3, 3, 3]
    for left, right in zip(alone, many, strict=True):
        assert torch.equal(left.pixels_BHWC, right.pixels_BHWC)
        assert torch.equal(left.labels_B, right.labels_B)


@pytest.mark.parametrize("size", [(40, 60), (97, 31), (32, 32)])
def test_pixels_are_bit_for_bit_what_the_runtime_makes_of_the_image_as_frames(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    file = write_image(tmp_path / "cat" / "0.png", size=size)
    (batch,) = read_batches([[Sample(file, 0)]], CLIP, workers=1)
    frames = fit_clip(np.repeat(read_image(file)[None], CLIP.frames, axis=0), CLIP)
    clip_BTCHW = normalise(frames[None], RGB_MEAN, RGB_STD)
    image_BCHW = normalise_pixels(batch.pixels_BHWC).numpy()
    for time in range(CLIP.frames):
        np.testing.assert_array_equal(clip_BTCHW[:, time], image_BCHW)
