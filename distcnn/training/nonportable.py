"""Operations whose bits differ between machines, and what takes their place (docs/portable.md)."""

from __future__ import annotations

import builtins
import cmath
import math
import operator
from functools import cache
from typing import Any

import numpy as np

from distcnn import nn

FORMS = {
    **{name: name for name in ("exp", "expm1", "log", "log1p", "sin", "cos", "tanh", "mean")},
    **dict.fromkeys(("power", "float_power", "pow"), "power"),
    **dict.fromkeys(("sum", "nansum", "average"), "total"),
    **dict.fromkeys(("var", "std", "nanmean", "nanvar", "nanstd"), "mean"),
    **dict.fromkeys(("dot", "vdot", "inner", "matmul", "tensordot", "einsum"), "matmul"),
    **{"logaddexp": "log1p", "expit": "sigmoid", "ipow": "power", "imatmul": "matmul"},
    **{"__pow__": "power", "__rpow__": "power", "__matmul__": "matmul"},
    **{name: name for name in ("softmax_cross_entropy", "squared_error")},
}
"""The part of ``distcnn.nn.portable`` that takes an operation's place."""
OF_NUMPY = (
    "arccos arccosh arcsin arcsinh arctan arctan2 arctanh argpartition average cbrt convolve"
    " corrcoef correlate cos cosh cov dot einsum exp exp2 expm1 float_power geomspace hypot i0"
    " inner interp log log10 log1p log2 logaddexp logaddexp2 logspace matmul mean nanmean nanprod"
    " nanstd nansum nanvar power prod sin sinc sinh std sum tan tanh tensordot trace var vdot"
    " vecdot matvec vecmat"
)
SAME_OF_MATH = (
    "ceil comb copysign degrees fabs factorial floor fma fmod frexp fsum gcd isclose isfinite isinf"
    " isnan isqrt lcm ldexp modf nextafter perm prod radians remainder sqrt trunc ulp"
)
OF_ARRAYS = "sum mean var std dot prod trace __pow__ __rpow__ __matmul__"
OF_GENERATORS = (
    "beta binomial choice dirichlet exponential gamma geometric gumbel integers laplace logistic"
    " lognormal multinomial multivariate_normal permutation permuted poisson rayleigh shuffle"
    " standard_cauchy standard_exponential standard_gamma standard_t triangular weibull"
)
"""NumPy's methods, which may change; those that distcnn's generators define do not."""


def nonportable(item: Any) -> tuple[str, str | None] | None:
    """The name of an operation whose bits differ, and its portable form, if there is one."""
    try:
        known = _known().get(item)
    except TypeError:  # what has no hash
        return None
    if not known and isinstance(item, np.ufunc) and getattr(np, item.__name__, None) is not item:
        return item.__name__, FORMS.get(item.__name__)  # SciPy's, for example
    return known


@cache
def _known() -> dict[Any, tuple[str, str | None]]:
    """All such operations, by object."""
    modules: dict[str, tuple[Any, Any]] = {
        "numpy.": (np, OF_NUMPY.split()),
        "numpy.linalg.": (np.linalg, np.linalg.__all__),
        "numpy.fft.": (np.fft, np.fft.__all__),
        "numpy.random.": (np.random, np.random.__all__),
        "math.": (math, vars(math).keys() - SAME_OF_MATH.split()),
        "cmath.": (cmath, vars(cmath).keys() - SAME_OF_MATH.split()),
        "operator.": (operator, ["pow", "ipow", "matmul", "imatmul"]),
        "": (builtins, ["sum", "pow"]),
        "distcnn.nn.": (nn, ["softmax_cross_entropy", "squared_error"]),
    }
    found: dict[Any, tuple[str, str | None]] = {}
    for prefix, (module, names) in modules.items():
        for name in names:
            item = getattr(module, name, None)
            if callable(item) and not isinstance(item, type):
                form = None if module is cmath else FORMS.get(name)
                found.setdefault(item, (prefix + name, form))
    found[np.add.reduce] = "numpy.add.reduce", "total"
    found[np.add.reduceat] = "numpy.add.reduceat", "total"
    found[np.multiply.reduce] = "numpy.multiply.reduce", None
    for activation in (nn.Sigmoid, nn.Tanh):
        name = activation.__name__
        found[activation.function] = f"distcnn.nn.{name}.function", name.lower()
    return found
