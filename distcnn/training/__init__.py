"""The step, the loop, evaluation, the run directory: what composes maths, ranks and data."""
