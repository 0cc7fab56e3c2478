"""Products of matrices on grids, which are exact (``distcnn.portable.grids``)."""

import numpy as np

from distcnn.nn.layer import Array
from distcnn.portable.grids import MOST_TERMS


def multiply(a: Array, b: Array, out: Array, most_terms: int | None = None) -> None:
    """Write ``a @ b`` to ``out``. Sums of more than ``most_terms`` terms (``MOST_TERMS``) are
    split: their parts are exact, and added one after another.
    """
    terms, most_terms = a.shape[-1], most_terms or MOST_TERMS
    if terms <= most_terms:
        np.matmul(a, b, out=out)
        return
    out.fill(0)
    for start in range(0, terms, most_terms):
        part = slice(start, start + most_terms)
        out += np.matmul(a[..., part], b[..., part, :])


def add_in_order(terms: Array, total: Array) -> None:
    """Add ``terms[0]``, ``terms[1]``, ... to ``total``, one after another."""
    for term in terms:
        total += term


def store_gradient(exact: Array, out: Array) -> None:
    """Write ``exact`` to ``out``, rounded to its type; zeros become +0."""
    np.copyto(out, exact, casting="same_kind")
    out += 0.0
