#!/usr/bin/env bash
# Build the API pages from the docstrings, as HTML in build/api; a page that cannot be built is an error.
#
#   ./launch/docs.sh
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. launch/environment.sh

use_environment .venv dev
# distcnn imports its public names on demand (PEP 562), so they are put in place for pdoc to see.
# PDOC_ALLOW_EXEC: NumPy asks uname for the processor as it is imported.
PDOC_ALLOW_EXEC=1 python -W error - <<'END'
from pathlib import Path

import distcnn
import pdoc

vars(distcnn).update({name: getattr(distcnn, name) for name in distcnn.__all__})
pdoc.render.configure(docformat="google")
pdoc.pdoc("distcnn", output_directory=Path("build/api"))
END
say "API pages: build/api/index.html"
