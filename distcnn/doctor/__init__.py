"""What the doctor looks at, one file a subject, and how findings are gathered from all ranks.

NumPy, h5py or MPI may be what is broken: files of this folder import only the standard library at
the top, and the rest where they need it.
"""
