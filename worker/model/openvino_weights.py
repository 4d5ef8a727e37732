"""Quantized weights as constants of an OpenVINO graph, in an unlinked temporary file.

The runtime computes with copies of its constants, each in the layout of a kernel. It makes a copy
when it first needs the layout, which may be late, so the constants must stay. The kernel can drop
the pages of a file, so they take disk and no memory.
"""

import mmap
import os
import tempfile
from typing import Any

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as op

from worker.host_memory import format_bytes
from worker.model.layers.quantization import GROUP_SIZE, quantize_groups, quantize_rows

Node = Any  # openvino takes nodes and outputs interchangeably
_ALIGNMENT = 64  # bytes: the runtime would copy other constants at once
_MOST_PADDING = 2**20
# On disk by convention, where /tmp may be in memory.
_DIRECTORY = "/var/tmp"


class WeightFile:
    """A file without a name for quantized weights; the graph must not outlive it."""

    def __init__(self, num_bytes: int) -> None:
        """Reserve space for weights and scales. Raises ValueError if the disk lacks it."""
        directory, self._end = _directory(), 0
        with tempfile.TemporaryFile(dir=directory) as file:
            file.truncate(num_bytes + _MOST_PADDING)
            try:
                if hasattr(os, "posix_fallocate"):  # on Linux
                    os.posix_fallocate(file.fileno(), 0, num_bytes + _MOST_PADDING)
            except OSError as error:
                raise ValueError(
                    f"quantized weights need {format_bytes(num_bytes)} of disk in {directory} "
                    f"(TMPDIR names another directory): {error.strerror}"
                ) from error
            self._memory = mmap.mmap(file.fileno(), 0)

    def per_row(self, weight: torch.Tensor) -> Node:
        """Quantize to 8 bits with a scale per row; return the node of the weight in float32."""
        integers, scales = quantize_rows(weight)
        values = self._constant(integers, ov.Type.i8, weight.shape)
        scale = self._constant(scales, ov.Type.f32, scales.shape)
        return op.multiply(op.convert(values, "f32"), scale)

    def per_group(self, weight: torch.Tensor) -> Node:
        """Quantize to 4 bits by groups; return the node of the weight in float32.

        The runtime recognizes this form, which is also nncf's, and never writes the weight out.
        """
        groups = quantize_groups(weight)
        num_rows, num_groups = groups.scales.shape
        values = self._constant(groups.values, ov.Type.u4, (num_rows, num_groups, GROUP_SIZE))
        zeros = self._constant(groups.zero_points, ov.Type.u8, (num_rows, num_groups, 1))
        scales = self._constant(groups.scales, ov.Type.f32, (num_rows, num_groups, 1))
        centred = op.subtract(op.convert(values, "f32"), op.convert(zeros, "f32"))
        shape = op.constant(np.array(weight.shape, dtype=np.int64))
        return op.reshape(op.multiply(centred, scales), shape, special_zero=False)

    def drop_pages(self) -> None:
        """Remove the constants from the memory of the process; the runtime may read them again."""
        self._memory.madvise(mmap.MADV_DONTNEED)

    def _constant(self, tensor: torch.Tensor, kind: ov.Type, shape: tuple[int, ...]) -> Node:
        """Append a tensor to the file; return a constant of its pages."""
        array = np.frombuffer(
            self._memory, dtype=tensor.numpy().dtype, count=tensor.numel(), offset=self._end
        )
        array[:] = tensor.numpy().reshape(-1)
        self._end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
        self.drop_pages()
        return ov.op.Constant(ov.Tensor(array, ov.Shape(shape), kind), shared_memory=True)


def _directory() -> str:
    """Return TMPDIR, else a directory that is on disk by convention, else Python's choice."""
    if "TMPDIR" not in os.environ and os.access(_DIRECTORY, os.W_OK):
        return _DIRECTORY
    return tempfile.gettempdir()
