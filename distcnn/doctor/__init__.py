"""Checks of the installation, the machine and the MPI ranks before a training run.

Each check is a generator of findings. The local ones run before MPI starts. NumPy, h5py or MPI may
be what is broken, so their files import only the standard library at the top.
"""
