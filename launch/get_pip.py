"""Install pip into the environment that runs this, from the package index, with nothing but the
standard library.

Debian keeps ensurepip in a package of its own (python3-venv); this needs neither that package nor
the right to install it. The index is PIP_INDEX_URL, or PyPI; the wheel is checked against the
SHA-256 that the index gives.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

INDEX = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/")
JSON_PAGE = "application/vnd.pypi.simple.v1+json"
TIMEOUT_SECONDS = 60


def read(address: str, accept: str = "*/*") -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(address, headers={"Accept": accept}), timeout=TIMEOUT_SECONDS
    ) as response:
        content: bytes = response.read()
        return content


def newest_wheel(files: list[dict]) -> dict:
    """The last final release that is a wheel and not withdrawn."""
    finals = [
        each
        for each in files
        if each["filename"].endswith("-py3-none-any.whl") and not each.get("yanked")
    ]
    finals = [each for each in finals if each["filename"].split("-")[1].replace(".", "").isdigit()]
    return max(
        finals, key=lambda each: [int(part) for part in each["filename"].split("-")[1].split(".")]
    )


def main() -> None:
    page = f"{INDEX}/pip/"
    wheel = newest_wheel(json.loads(read(page, JSON_PAGE))["files"])
    content = read(urllib.parse.urljoin(page, wheel["url"]))
    found = hashlib.sha256(content).hexdigest()
    if found != wheel["hashes"]["sha256"]:
        sys.exit(
            f"{wheel['filename']} is damaged: its SHA-256 is {found}, the index says"
            f" {wheel['hashes']['sha256']}"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, wheel["filename"])
        path.write_bytes(content)
        subprocess.run(
            [
                sys.executable,
                f"{path}/pip",
                "install",
                "--quiet",
                "--no-index",
                "--disable-pip-version-check",
                str(path),
            ],
            check=True,
        )


if __name__ == "__main__":
    main()
