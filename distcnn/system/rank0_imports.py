"""Import what only rank 0 needs, so that a broken installation shows before a run starts.

The other ranks do not: on a shared file system all of them would request every file at once.
"""

from __future__ import annotations

import os

from distcnn.system import launcher

if launcher.declared_rank(os.environ) == 0:
    import difflib  # noqa: F401
    import pdb  # noqa: F401
    import shutil  # noqa: F401  (argparse's)
    import tomllib  # noqa: F401

    import tomli_w  # noqa: F401
    import tqdm  # noqa: F401
