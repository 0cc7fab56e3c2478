"""The geometry that convolution and pooling share: sizes, and windows as views."""

from numbers import Integral

from distcnn.nn.layer import Array

Pair = tuple[int, int]


def _is_count(value: object, minimum: int) -> bool:
    """Whether ``value`` is an integer (no bool) of at least ``minimum``."""
    return isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= minimum


def as_count(name: str, value: int) -> int:
    """``value`` as a Python integer, at least 1."""
    if not _is_count(value, 1):
        raise ValueError(f"{name} (={value!r}) must be an integer of at least 1")
    return int(value)


def as_pair(name: str, value: int | Pair, minimum: int) -> Pair:
    """``value`` as a pair (vertical, horizontal); an integer means both."""
    pair = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2 or not all(_is_count(part, minimum) for part in pair):
        raise ValueError(
            f"{name} (={value!r}) must be an integer of at least {minimum}, or a pair of them"
            " (height, width)"
        )
    return int(pair[0]), int(pair[1])


def output_size(size: Pair, kernel: Pair, stride: Pair, padding: Pair = (0, 0)) -> Pair:
    """(oh, ow): how many windows fit, ``floor((size + 2*padding - kernel) / stride) + 1`` each way.

    Rows and columns left over at the lower and right edge are not covered, as in PyTorch.
    """
    padded = (size[0] + 2 * padding[0], size[1] + 2 * padding[1])
    if kernel[0] > padded[0] or kernel[1] > padded[1]:
        raise ValueError(
            f"a window of kernel_size {kernel[0]}x{kernel[1]} is larger than its padded input of"
            f" {padded[0]}x{padded[1]} (input {size[0]}x{size[1]}, padding"
            f" {padding[0]}x{padding[1]}): use a smaller kernel_size or larger images"
        )
    return (padded[0] - kernel[0]) // stride[0] + 1, (padded[1] - kernel[1]) // stride[1] + 1


def window_offsets(x: Array, kernel: Pair, stride: Pair, size: Pair) -> list[Array]:
    """For each offset inside the window, in row-major order, the view (C, oh, ow, N) of what all
    windows hold there.
    """
    rows, columns = (
        [slice(i, i + stride[a] * (size[a] - 1) + 1, stride[a]) for i in range(kernel[a])]
        for a in (0, 1)
    )
    return [x[:, i, j] for i in rows for j in columns]
