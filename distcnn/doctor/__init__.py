"""Checks of the installation, the machine and the MPI ranks before a training run.

Each check collects facts on every rank (``collect``) and evaluates them on rank 0 (``evaluate``).
NumPy, h5py or MPI may be what is broken, so these files import only the standard library at the
top, and everything else where it is used.
"""
