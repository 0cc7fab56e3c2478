"""distcnn: data-parallel training of CNNs with NumPy and MPI, the same bits on any number
of ranks.
"""

import os
import sys as _sys

__version__ = "0.2.0"

# One BLAS thread per rank (threads change bits, and ranks x threads oversubscribe a node). BLAS
# reads these when NumPy is first imported, which is after this line;
# distcnn.distributed.blas_threads enforces the number afterwards whatever they say.
for _variable in (
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
):
    os.environ.setdefault(_variable, "1")

# Started as `python -m distcnn.<name>`: a failure from the first import on names its rank and host.
if _sys.argv[:1] == ["-m"]:
    from distcnn.fault_tolerance.early import report_early_failures
    from distcnn.system.console import replace_closed_streams

    replace_closed_streams()  # before any file is opened in the place of one
    report_early_failures()
