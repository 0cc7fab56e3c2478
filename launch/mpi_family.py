"""Which MPI mpi4py loads here, in one word for scripts: mpich, openmpi or cray; "none: why" where
there is none. MPI is not started.
"""

from __future__ import annotations


def main() -> str:
    """The word."""
    try:
        import mpi4py

        mpi4py.rc.initialize = False
        from mpi4py import MPI

        library = MPI.Get_library_version()
    except (ImportError, RuntimeError) as error:
        return f"none: {(str(error).splitlines() or ['mpi4py cannot be imported'])[0]}"
    if "Open MPI" in library:
        return "openmpi"
    return "cray" if "CRAY" in library.upper() else "mpich"  # Intel's and MVAPICH are MPICHs too


if __name__ == "__main__":
    print(main())
