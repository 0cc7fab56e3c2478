"""Listeners to spans: the timeline of a run (``--trace``, docs/trace.md), and the seconds of each
part of a step, for the benchmark and for scaling.

Training imports it only for ``--trace``.
"""
