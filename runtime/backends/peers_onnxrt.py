"""transformers' model as a user would bring it into ONNX Runtime: plainly exported."""

from typing import ClassVar

from vjepa2.bundle import Bundle

from .base import RunOptions
from .onnxrt import OnnxRuntimePortableBackend
from .peers_export import ExportedPeer, PlainExport


class TransformersOnnxRuntimeBackend(ExportedPeer, OnnxRuntimePortableBackend):
    """Runs `torch.onnx.export`'s graph of VJEPA2Model; opening it exports, which takes longer than all the rest."""

    name: ClassVar[str] = "transformers-onnxruntime"

    def __init__(self, bundle: Bundle, options: RunOptions = RunOptions()) -> None:  # noqa: B008  (frozen)
        self._export = PlainExport(bundle)
        try:
            super().__init__(bundle, options)
        except BaseException:
            self._export.close()
            raise
        self.build_ms = self._export.build_ms
