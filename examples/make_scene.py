"""Writes moving-scene.mp4, the clip that `make export` embeds, beside itself."""

from pathlib import Path

import av

from vjepa2.runtime.scenes import generate_scene


def write_scene(file: Path) -> None:
    """32 frames of 320 x 240 at 16 a second, MPEG-4."""
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=16)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 400_000
        for frame in generate_scene(32, 240, 320, seed=7):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    write_scene(Path(__file__).with_name("moving-scene.mp4"))
