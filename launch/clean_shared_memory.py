"""Remove shared memory that an MPI left on this host when its ranks were killed: this user's own,
that no process uses any more.

Every start under a launcher does so too, but not before other ranks of it: for the steps of a
requeued Slurm job that is too late.
"""

import sys

from distcnn.fault_tolerance.leftovers import main

if __name__ == "__main__":
    sys.exit(main())
