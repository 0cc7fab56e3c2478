"""What a command does to its process before NumPy is imported; commands import this first.

Other programs that import distcnn's modules are left alone.
"""

from __future__ import annotations

import os
import sys

BLAS_VARIABLES = (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


# Commands start as ``python -m distcnn.<name>``, or as ``distcnn <name>``, which does the same.
main_spec = getattr(sys.modules.get("__main__"), "__spec__", None)
if main_spec is not None and main_spec.name.partition(".")[0] == "distcnn":
    from distcnn.fault_tolerance.early import report_early_failures
    from distcnn.system.console import replace_closed_streams

    # One BLAS thread per rank: threads change bits, and ranks x threads oversubscribe a node. BLAS
    # reads these when NumPy is imported; distcnn.distributed.blas_threads enforces the number later
    # regardless of them.
    for variable in BLAS_VARIABLES:
        os.environ.setdefault(variable, "1")
    replace_closed_streams()  # before a file is opened in place of a closed stream
    report_early_failures()  # from the first import on, a failure names its rank and host
