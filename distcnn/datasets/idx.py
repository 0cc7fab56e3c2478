"""The IDX format of the MNIST files: a magic number, big-endian sizes, then the bytes (LeCun, "The MNIST database")."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from distcnn.errors import InputError

UNSIGNED_BYTE = 8
MAX_DIMENSIONS = 4


def read_idx(path: str | Path) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an IDX file, gzipped or not. ``InputError`` when it is cut off or something else."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}): name an IDX file") from error
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is damaged ({error}): fetch it again") from error
    return parse_idx(content, str(path))


def parse_idx(content: bytes, name: str) -> NDArray[np.uint8]:
    """The array in the bytes of an IDX file; ``name`` is for the errors."""
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UNSIGNED_BYTE:
        raise InputError(f"{name} is not an IDX file of unsigned bytes: it begins with {content[:4].hex() or 'nothing'}, not 000008..")
    dimensions = content[3]
    if not 1 <= dimensions <= MAX_DIMENSIONS:
        raise InputError(f"{name} has {dimensions} dimensions: an IDX file of images or labels has 1 to {MAX_DIMENSIONS}")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise InputError(f"{name} holds {len(content)} bytes, but its header alone needs {header}: it is damaged, fetch it again")
    shape = tuple(np.frombuffer(content[4:header], ">u4").tolist())
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise InputError(f"{name} holds {len(content)} bytes, but its header {shape} needs {expected}: it is damaged, fetch it again")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
