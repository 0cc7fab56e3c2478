"""Parquet files with encoded images, as Hugging Face data sets have: a column of ``{bytes, path}``
or of bytes, and one of labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distcnn.datasets.importers.folders import PictureStack
from distcnn.datasets.importers.named_arrays import ROLE_OF, SPLIT_OF, split_of, words_of
from distcnn.datasets.importers.source import (
    Examples,
    Notify,
    Options,
    Source,
    damage_named,
    require_room,
)
from distcnn.datasets.pictures import Encoded, common_form
from distcnn.errors import InputError
from distcnn.system.files import open_named
from distcnn.system.wording import first_few

ROWS_AT_ONCE = 1000
BYTES_KEY = "bytes"


def read_parquet(paths: Sequence[Path], options: Options, notify: Notify) -> Source:
    """Parquet files as a source; their names say which split they are."""
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError("reading Parquet files needs pyarrow: pip install pyarrow") from error
    pictures: dict[str, list[Encoded]] = {}
    labels: dict[str, list[Any]] = {}
    classes: dict[int, str] = {}
    notes = []
    for path in paths:
        split = split_of(path.name) or SPLIT_OF.get(path.parent.name.lower(), "train")
        with damage_named(path), open_named(path) as raw, parquet.ParquetFile(raw) as file:
            image, label = _columns(path, file.schema_arrow, options)
            classes = classes or _class_names(file.schema_arrow, label)
            size = sum(
                file.metadata.row_group(group).total_byte_size
                for group in range(file.metadata.num_row_groups)
            )
            require_room(str(path), size)
            own = pictures.setdefault(split, [])
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=[image, label]):
                own += _pictures(path, batch.column(image), len(own))
                labels.setdefault(split, []).extend(batch.column(label).to_pylist())
            notes.append(f"{split} split: {path.name}, {image}, {label}")
    if not all(pictures.values()):
        raise InputError(f"{paths[0]} has no rows: name files with images")
    everything = [each for own in pictures.values() for each in own]
    form = common_form(everything, options.size, options.grayscale, options.background, notify)
    examples = {
        split: Examples(split, PictureStack(own, form), _labels(labels[split], split))
        for split, own in pictures.items()
    }
    return Source("Parquet", examples, classes, notes=notes, in_form=True)


def _columns(path: Path, schema: Any, options: Options) -> tuple[str, str]:
    """The names of the columns with images and labels."""
    import pyarrow

    def holds_images(type_: Any) -> bool:
        if pyarrow.types.is_struct(type_):
            index = type_.get_field_index(BYTES_KEY)
            return index >= 0 and holds_images(type_.field(index).type)
        return bool(pyarrow.types.is_binary(type_) or pyarrow.types.is_large_binary(type_))

    names, types = schema.names, {field.name: field.type for field in schema}
    images = [name for name in names if holds_images(types[name])]
    labels = [name for name in names if "labels" in {ROLE_OF.get(word) for word in words_of(name)}]
    labels = [name for name in labels if name not in images]
    found = []
    for flag, wanted, choice, what in (
        ("--images", options.images, images, "images (bytes, or a struct with bytes)"),
        ("--labels", options.labels, labels, "labels"),
    ):
        if wanted and wanted not in names:
            raise InputError(f"{path} has no column '{wanted}': it has {first_few(names, 12)}")
        if wanted and flag == "--images" and wanted not in images:
            raise InputError(f"{path}: column '{wanted}' is {types[wanted]}, not bytes of images")
        if not wanted and len(choice) != 1:
            which = f"several columns of {what} ({first_few(choice, 12)})"
            if not choice:
                which = f"no known column of {what}; its columns are {first_few(names, 12)}"
            remedy = f"name one with {flag} NAME"
            if flag == "--images" and not choice:
                remedy = "save it with encoded images, or as CSV or .npz"
            raise InputError(f"{path} has {which}: {remedy}")
        found.append(wanted or choice[0])
    return found[0], found[1]


def _class_names(schema: Any, label: str) -> dict[int, str]:
    """The names of a ClassLabel in the metadata that Hugging Face's library writes."""
    try:
        metadata = json.loads((schema.metadata or {})[b"huggingface"])
        names = metadata["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return {}
    return {number: str(name) for number, name in enumerate(names)}


def _pictures(path: Path, column: Any, first: int) -> Iterator[Encoded]:
    for index, value in enumerate(column.to_pylist(), first):
        content = value.get(BYTES_KEY) if isinstance(value, dict) else value
        if content is None:
            raise InputError(
                f"{path}, row {index}: the image is not in the file, only its name: save the data"
                " set with its images embedded"
            )
        yield Encoded(f"{path}, row {index}", content)


def _labels(values: Sequence[Any], split: str) -> Any:
    kinds = {type(value) for value in values}
    if not kinds <= {int, bool} and not kinds <= {str, bytes} and not kinds <= {float, int}:
        names = sorted("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise InputError(
            f"the {split} labels are {first_few(names)}: each image must have one number or text"
        )
    return np.array(values)
