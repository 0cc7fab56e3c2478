"""Remove this user's shared memory that killed MPI ranks left on this host and no process uses.

Every start under a launcher does this too, but a requeued Slurm job needs it before its first rank
starts.
"""

import sys

from distcnn.fault_tolerance.leftovers import main

if __name__ == "__main__":
    sys.exit(main())
