"""The exceptions that mean something to a user; any other one is a defect of ours."""


class InputError(ValueError):
    """Bad input from outside (a flag, a file, a launcher). Its text is one line: the thing, its
    value, the remedy.

    Commands print it on rank 0 and end every rank with exit code 2; any other exception is a defect
    and shows a traceback.
    """


class TrainingError(RuntimeError):
    """Training cannot go on: a gradient that is no number or out of range.

    Raised on all ranks at the same step; exit code 3.
    """


class Stopped(Exception):
    """A signal asked the run to stop, and it did, on all ranks at the same step: exit code 85, on
    which a scheduler may requeue.
    """
