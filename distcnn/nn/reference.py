"""A textbook: every layer and loss of ``distcnn.nn`` as short plain functions on whole arrays.

Nothing in the package uses this file. It states what the fast kernels compute, in the usual layout
and without concern for speed or memory, and ``tests/unit/nn/test_reference.py`` compares every
kernel with it.

Letters: N examples, C channels, H and W height and width, O output channels, (kh, kw) the kernel
or window, (oh, ow) the output's size, F features, K classes. Images are (N, C, H, W), in Python
order; ``stride`` and ``padding`` are pairs (vertical, horizontal).

A layer is two functions. ``layer(x, ...)`` returns y. ``layer_backward(grad_y, ...)`` takes
``grad_y = dL/dy``, the gradient of a scalar loss L, and returns ``dL/dx`` and those of parameters.
Every derivation is the chain rule ``dL/dx[p] = sum over q of dL/dy[q] * dy[q]/dx[p]`` written out.

Sources: Rumelhart, Hinton and Williams, "Learning representations by back-propagating errors",
1986; LeCun et al., "Gradient-based learning applied to document recognition", 1998; Goodfellow,
Bengio and Courville, "Deep Learning", 2016, chapters 6 and 9; Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning", 2016.
"""

from collections.abc import Mapping

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array = NDArray[np.floating]
Labels = NDArray[np.integer]
Pair = tuple[int, int]


def windows(x: Array, size: Pair, stride: Pair) -> Array:
    """All windows of ``size`` in the images ``x`` (N, C, H, W), as a view without a copy.

    ``windows(x)[n, c, r, s, i, j] = x[n, c, r*stride_h + i, s*stride_w + j]``.

    Returns:
        (N, C, oh, ow, kh, kw) with ``oh = (H - kh) // stride_h + 1``, likewise ow. Rows and columns
        at the end that fill no window are left out.
    """
    every = sliding_window_view(x, size, axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1]]


def windows_backward(grad_windows: Array, shape: tuple[int, ...], stride: Pair) -> Array:
    """The gradient of x (of ``shape``), given that of its windows (N, C, oh, ow, kh, kw).

    A pixel appears in several windows; the chain rule adds up what each of them sends back. For one
    offset (i, j) inside the window all windows touch different pixels, so one strided addition
    serves them all. (This is "col2im"; ``windows`` is "im2col".)
    """
    grad_x = np.zeros(shape, grad_windows.dtype)
    oh, ow, kh, kw = grad_windows.shape[2:]
    for i in range(kh):
        for j in range(kw):
            rows = slice(i, i + stride[0] * (oh - 1) + 1, stride[0])
            columns = slice(j, j + stride[1] * (ow - 1) + 1, stride[1])
            grad_x[:, :, rows, columns] += grad_windows[..., i, j]
    return grad_x


def conv2d(
    x: Array, weight: Array, bias: Array, stride: Pair = (1, 1), padding: Pair = (0, 0)
) -> Array:
    """Convolution, as deep learning uses the word: a cross-correlation, the kernel is not flipped.

    With P = x surrounded by ``padding`` zeros,
    ``y[n, o, r, s] = b[o] + sum over c, i, j of w[o, c, i, j] * P[n, c, r*stride_h + i,
    s*stride_w + j]``.

    Args:
        x: (N, C, H, W).
        weight: (O, C, kh, kw).
        bias: (O,).

    Returns:
        (N, O, oh, ow) with ``oh = (H + 2*padding_h - kh) // stride_h + 1``, likewise ow.
    """
    patches = windows(_pad(x, padding), weight.shape[2:], stride)
    y: Array = np.einsum("ncrsij,ocij->nors", patches, weight, optimize=True)
    y += bias[:, np.newaxis, np.newaxis]
    return y


def conv2d_backward(
    grad_y: Array, x: Array, weight: Array, stride: Pair = (1, 1), padding: Pair = (0, 0)
) -> tuple[Array, Array, Array]:
    """The gradients of x, weight and bias.

    Every output is linear in w, b and the patches V = windows(P), so with G = dL/dy

    - dL/dw[o, c, i, j] = sum over n, r, s of G[n, o, r, s] * V[n, c, r, s, i, j]
    - dL/db[o] = sum over n, r, s of G[n, o, r, s]
    - dL/dV[n, c, r, s, i, j] = sum over o of G[n, o, r, s] * w[o, c, i, j]

    dL/dV is added up over the windows that share a pixel, and the gradient of the padding dropped.
    """
    padded = _pad(x, padding)
    patches = windows(padded, weight.shape[2:], stride)
    grad_weight = np.einsum("nors,ncrsij->ocij", grad_y, patches, optimize=True)
    grad_bias = grad_y.sum(axis=(0, 2, 3))
    grad_patches = np.einsum("nors,ocij->ncrsij", grad_y, weight, optimize=True)
    grad_padded = windows_backward(grad_patches, padded.shape, stride)
    height, width = x.shape[2:]
    inside = grad_padded[:, :, padding[0] : padding[0] + height, padding[1] : padding[1] + width]
    return inside, grad_weight, grad_bias


def _pad(x: Array, padding: Pair) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (padding[0], padding[0]), (padding[1], padding[1])))


def max_pool2d(x: Array, size: Pair, stride: Pair) -> Array:
    """The largest pixel of each window: (N, C, H, W) to (N, C, oh, ow)."""
    y: Array = windows(x, size, stride).max(axis=(4, 5))
    return y


def max_pool2d_backward(grad_y: Array, x: Array, size: Pair, stride: Pair) -> Array:
    """The gradient of x: each window's gradient goes to its largest pixel.

    Near a point where one pixel p* is the largest, y = x[p*] exactly, so dy/dx[p*] = 1 and all
    other derivatives are 0. Where pixels tie there is no derivative and any one of them may be
    chosen: the first in row-major order, as in PyTorch. (Choosing all would multiply the gradient.)
    """
    pixels = windows(x, size, stride)
    flat = pixels.reshape(*pixels.shape[:4], -1)
    winner = flat.argmax(axis=4)[..., np.newaxis]
    grad_flat = np.zeros_like(flat)
    np.put_along_axis(grad_flat, winner, grad_y[..., np.newaxis], axis=4)
    return windows_backward(grad_flat.reshape(pixels.shape), x.shape, stride)


def avg_pool2d(x: Array, size: Pair, stride: Pair) -> Array:
    """The mean of each window: (N, C, H, W) to (N, C, oh, ow)."""
    y: Array = windows(x, size, stride).mean(axis=(4, 5))
    return y


def avg_pool2d_backward(grad_y: Array, shape: tuple[int, ...], size: Pair, stride: Pair) -> Array:
    """The gradient of x (of ``shape``): with n = kh*kw pixels in a window, dy/dx = 1/n for each."""
    each_pixel = grad_y[..., np.newaxis, np.newaxis] / (size[0] * size[1])
    return windows_backward(np.broadcast_to(each_pixel, (*grad_y.shape, *size)), shape, stride)


def dense(x: Array, weight: Array, bias: Array) -> Array:
    """A fully connected layer: ``y[n, o] = b[o] + sum over f of x[n, f] * w[o, f]``.

    Args:
        x: (N, F).
        weight: (O, F).
        bias: (O,).
    """
    return x @ weight.T + bias


def dense_backward(grad_y: Array, x: Array, weight: Array) -> tuple[Array, Array, Array]:
    """The gradients of x, weight and bias; with G = dL/dy (N, O):

    - dL/dx[n, f] = sum over o of G[n, o] * w[o, f]
    - dL/dw[o, f] = sum over n of G[n, o] * x[n, f]
    - dL/db[o] = sum over n of G[n, o]
    """
    return grad_y @ weight, grad_y.T @ x, grad_y.sum(axis=0)


def flatten(x: Array) -> Array:
    """Images (N, C, H, W) as vectors (N, C*H*W)."""
    return x.reshape(len(x), -1)


def flatten_backward(grad_y: Array, shape: tuple[int, ...]) -> Array:
    """The gradient of x (of ``shape``)."""
    return grad_y.reshape(shape)


# Activations: y = f(x) elementwise, so dL/dx = dL/dy * f'(x)


def identity(x: Array) -> Array:
    """``x`` itself."""
    return x


def identity_backward(grad_y: Array) -> Array:
    """f'(x) = 1."""
    return grad_y


def relu(x: Array) -> Array:
    """``max(x, 0)``. Nair and Hinton, "Rectified linear units", 2010."""
    return np.maximum(x, 0)


def relu_backward(grad_y: Array, x: Array) -> Array:
    """f'(x) = 1 for x > 0, else 0; at 0, where there is no derivative, 0 is chosen."""
    return np.where(x > 0, grad_y, 0)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))``, written with tanh, which does not overflow for large -x.

    ``(1 + tanh(x/2)) / 2`` is the same: multiply both parts of the fraction by ``exp(x/2)``.
    """
    return (1 + np.tanh(x / 2)) / 2


def sigmoid_backward(grad_y: Array, x: Array) -> Array:
    """f'(x) = exp(-x) / (1 + exp(-x))^2 = y * (1 - y)."""
    y = sigmoid(x)
    return grad_y * y * (1 - y)


def tanh(x: Array) -> Array:
    """The hyperbolic tangent."""
    y: Array = np.tanh(x)
    return y


def tanh_backward(grad_y: Array, x: Array) -> Array:
    """f'(x) = 1 - y^2: differentiate sinh/cosh and use cosh^2 - sinh^2 = 1."""
    return grad_y * (1 - tanh(x) ** 2)


# Losses: the sum over examples, and its gradient


def softmax_cross_entropy(logits: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
    """``L = sum over n of weights[n] * -log p[n, label]``, where ``p = softmax(logits)``.

    Since ``p[n, k] = exp(z[n, k]) / sum over j of exp(z[n, j])``, one example loses
    ``log sum exp(z) - z[label]``. The derivative of the first part is ``exp(z[k]) / sum exp(z) =
    p[k]``, of the second 1 for k = label and 0 otherwise: ``dL/dz = weights * (p - onehot)``.
    Subtracting the largest logit changes nothing, because it cancels, and avoids overflow
    (Goodfellow et al. 2016, section 4.1).

    Args:
        logits: (N, K).
        labels: (N,) integers, 0 to K - 1.
        weights: (N,) the weight of each example; 0 for padding.

    Returns:
        The sum of the losses, and its gradient (N, K).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    onehot, w = np.eye(logits.shape[1], dtype=logits.dtype)[labels], weights[:, np.newaxis]
    grad: Array = w * (np.exp(log_p) - onehot)
    return float(-(w * onehot * log_p).sum()), grad


def squared_error(outputs: Array, labels: Labels, weights: Array) -> tuple[float, Array]:
    """``L = sum over n of weights[n] * 1/2 * sum over k of (y[n, k] - onehot[n, k])^2``.

    The square's derivative cancels the 1/2: ``dL/dy = weights * (y - onehot)``. Arguments and
    results as for ``softmax_cross_entropy``.
    """
    errors = outputs - np.eye(outputs.shape[1], dtype=outputs.dtype)[labels]
    grad: Array = weights[:, np.newaxis] * errors
    return float((grad * errors).sum() / 2), grad


def lenet_gradient(
    images: Array, labels: Labels, parameters: Mapping[str, Array]
) -> tuple[float, dict[str, Array]]:
    """The summed loss of the model ``lenet``, and the gradient of each of its parameters.

    Forward, every layer's input is kept, because backward needs it. Backward visits the layers in
    reverse: each receives the gradient of its output and passes on that of its input.
    ``parameters`` are those of a checkpoint, in its order: ``conv1.weight``, ``conv1.bias``, ...
    """
    p, two, ones = parameters, (2, 2), np.ones(len(images), images.dtype)
    maps1 = conv2d(images, p["conv1.weight"], p["conv1.bias"])  # (N, 1, 28, 28) to (N, 20, 24, 24)
    pooled1 = max_pool2d(maps1, two, two)  # to (N, 20, 12, 12)
    maps2 = conv2d(relu(pooled1), p["conv2.weight"], p["conv2.bias"])  # to (N, 50, 8, 8)
    pooled2 = max_pool2d(maps2, two, two)  # to (N, 50, 4, 4)
    features = flatten(relu(pooled2))  # to (N, 800)
    hidden = dense(features, p["dense1.weight"], p["dense1.bias"])  # to (N, 500)
    logits = dense(relu(hidden), p["dense2.weight"], p["dense2.bias"])  # to (N, 10)
    loss_sum, g = softmax_cross_entropy(logits, labels, ones)

    g, *grad_dense2 = dense_backward(g, relu(hidden), p["dense2.weight"])
    g, *grad_dense1 = dense_backward(relu_backward(g, hidden), features, p["dense1.weight"])
    g = relu_backward(flatten_backward(g, pooled2.shape), pooled2)
    g = max_pool2d_backward(g, maps2, two, two)
    g, *grad_conv2 = conv2d_backward(g, relu(pooled1), p["conv2.weight"])
    g = max_pool2d_backward(relu_backward(g, pooled1), maps1, two, two)
    g, *grad_conv1 = conv2d_backward(g, images, p["conv1.weight"])
    return loss_sum, dict(zip(p, grad_conv1 + grad_conv2 + grad_dense1 + grad_dense2, strict=True))
