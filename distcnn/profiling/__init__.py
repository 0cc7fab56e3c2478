"""The timeline of a run: when each rank did what, in one file for Perfetto (docs/trace.md).

Imported where ``--trace`` asks for it.
"""

from distcnn.profiling.tracing import traced

__all__ = ["traced"]
