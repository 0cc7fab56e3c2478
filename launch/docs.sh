#!/usr/bin/env bash
# Build the API pages from the docstrings, as HTML in build/api; a page that cannot be built is an error.
#
#   ./launch/docs.sh
set -euo pipefail
cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.."
. launch/environment.sh

use_environment .venv dev
# The commands that only measure have no API: their --help and docs/ describe them.
# pdoc imports each module; NumPy asks uname for the processor as it is imported.
PDOC_ALLOW_EXEC=1 python -W error -m pdoc --docformat google --output-directory build/api distcnn '!distcnn\.(benchmark|doctor|profiling|scaling)'
say "API pages: build/api/index.html"
