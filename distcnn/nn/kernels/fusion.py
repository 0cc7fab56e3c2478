"""A convolution and the max pooling after it, with the ReLU after that if there is one, block of
rows by block of rows.

What lies between the two is the largest array of most networks. Pooled while a block of it is in
the caches, it is never written to memory, nor is its gradient. The bits are those of one layer
after the other: the same products, sums and comparisons, of the same numbers. ReLU is one more
comparison of the pooling's, with 0.
"""

from __future__ import annotations

from distcnn.nn.kernels.arena import Buffers
from distcnn.nn.kernels.convolution import ConvKernel
from distcnn.nn.kernels.pooling import Scratch, TiledRows
from distcnn.nn.layer import Array, Call
from distcnn.nn.pooling import MaxPool2d
from distcnn.spans import Span


class FusedPool:
    """The pooling of the blocks that ``conv`` makes: the row layer of ``ConvKernel``."""

    def __init__(
        self,
        conv: ConvKernel,
        pool: MaxPool2d,
        name: str,
        buffers: Buffers,
        flattened: bool,
        rectify: bool,
    ) -> None:
        self.name = name
        (oh, ow), (kh, kw) = conv.size, pool.kernel_size
        shape = conv.out_channels, oh // kh, ow // kw, conv.count
        self.output = buffers.zeros(shape) if flattened else buffers.images(shape)
        scratch = Scratch(buffers)
        self._blocks = [
            TiledRows(tiled, (rows, *part), (kh, kw), self.output, scratch, buffers, rectify)
            for tiled, rows, part in conv.blocks
        ]
        self._forward, self._backward = Span("forward", layer=name), Span("backward", layer=name)

    def forward_rows(self, block: int) -> None:
        """Pool the block of that number: the input is where it was planned to be."""
        with self._forward:
            self._blocks[block].forward()

    def backward_rows(self, block: int, grad_output: Array) -> None:
        """Write the gradient of the block of that number in the place of its input, for
        ``grad_output``, that of the whole output.
        """
        with self._backward:
            self._blocks[block].backward(grad_output)


class FusedKernel:
    """Runs ``conv`` with the pooling inside."""

    def __init__(self, conv: ConvKernel, pool: FusedPool) -> None:
        self._conv, self.pool = conv, pool

    def forward(self, x: Array, call: Call) -> Array:
        self._conv.forward_blocks(x, call, self.pool)
        return self.pool.output

    def backward(self, grad_output: Array, call: Call, input_gradient: bool) -> Array | None:
        return self._conv.backward(grad_output, call, input_gradient, self.pool)
