"""What a convolution (``convolution.py``) calls: an algorithm, and an epilogue for its output.

Letters and arrays (V, U, M, tiled pieces) are those of ``algorithms.py``.

Forward: ``transform_weights`` (in portable arithmetic the methods of ``ExactAlgorithm``,
``exact_algorithms.py``); then for each piece ``transform_input``, the matrix product into
``products``, ``transform_products``, and the epilogue's ``take``. Backward, for each piece in the
same order: the epilogue's ``give_gradient``, ``transform_gradient``, the products of
``grad_products`` with weights and rows, ``transform_input_gradient``; last
``transform_weight_gradient``.
"""

from typing import Protocol

from distcnn.nn.kernels.blocking import Piece
from distcnn.nn.layer import Array


class Algorithm(Protocol):
    """The transforms around the matrix product: ``im2col.py`` and ``winograd.py``."""

    @property
    def grad_products(self) -> Array:
        """dM (P, oh, O, T*N), as far as ``transform_gradient`` has kept it."""

    def transform_weights(self, weight: Array, bias: Array, transformed: Array) -> None:
        """Write U to ``transformed`` for ``weight`` (O, C, kh, kw), and keep ``bias`` (O, 1)."""

    def transform_input(self, x: Array, piece: Piece) -> None:
        """Write ``piece.fresh_rows``, of V, for the (padded) images ``x``."""

    def products(self, piece: Piece) -> Array:
        """Where the piece's product, rows of M, is to be written."""

    def transform_products(self, piece: Piece) -> None:
        """Turn the piece's product into its output, with the bias added."""

    def tiled(self, piece: Piece) -> Array:
        """The piece's output as [k, o, r, t, n], valid until the next piece; in backward, where its
        gradient is to be written.
        """

    def transform_gradient(self, piece: Piece, keep: bool) -> tuple[Array, Array]:
        """The piece's rows of dM for the gradient in ``tiled``, and matrices (..., O, T*N) whose
        sum over all other axes is the bias's gradient. With ``keep``, the rows of dM are in
        ``grad_products`` too.
        """

    def transform_input_gradient(self, grad_rows: Array, grad_x: Array, shared: int) -> None:
        """Write rows of the input's gradient, ``grad_x`` (C, H, width, N), for those of dV; add to
        the first ``shared`` columns, which the strip to the left has written.
        """

    def transform_weight_gradient(self, transformed: Array, grad_weight: Array) -> None:
        """Write ``grad_weight`` (O, C, kh, kw) for dU, here (P, kh, C, J, O)."""


class Epilogue(Protocol):
    """Makes the kernel's result of the pieces of a convolution's output, and takes its gradient
    apart into pieces: whole images (``convolution.py``, ``im2col.py``) or pooled (``fusion.py``).
    """

    result: Array  # what ``ConvKernel.forward`` returns

    def take(self, piece: Piece) -> None:
        """Use the piece's output, which is in the algorithm's ``tiled``."""

    def begin_backward(self, grad_output: Array) -> None:
        """Take the gradient of ``result`` for the calls that follow."""

    def give_gradient(self, piece: Piece) -> None:
        """Write the gradient of the piece's output to the algorithm's ``tiled``."""
