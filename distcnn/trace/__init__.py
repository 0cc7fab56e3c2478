"""The timeline of a run: when each rank did what, in one file for Perfetto (docs/trace.md). Imported where ``--trace`` asks for it."""

from distcnn.trace.tracing import traced

__all__ = ["traced"]
