"""Image sets that are spread over several files, or not all there: HDF5 reads zeros in the place of
what is missing, we refuse it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from distcnn.datasets import read_examples, read_info
from distcnn.datasets.examples import ExampleFile
from distcnn.errors import InputError
from tests.support.image_sets import Arrays, assert_refused, make_arrays, put, write_as_a_user

PARTS, ROWS = 4, 5


def assert_read(path: Path, arrays: Arrays) -> None:
    for split, (images, labels) in arrays.items():
        found = read_examples(read_info(path), split, range(len(labels)))
        assert np.array_equal(found[0][..., 0], images)
        assert np.array_equal(found[1], labels)


def refused(path: Path, says: str) -> None:
    assert_refused(path, says)


# -- virtual datasets


def make_virtual(
    folder: Path, name: Callable[[int], str] = "part{}.h5".format, **change: Any
) -> tuple[Path, Arrays]:
    """A set whose training images are stored in files of 5 rows each, and whose labels and test set
    are its own.
    """
    arrays = make_arrays((3, 2), train=PARTS * ROWS, test=4)
    layout = h5py.VirtualLayout((PARTS * ROWS, 3, 2), np.uint8)
    for part in range(PARTS):
        rows = slice(part * ROWS, (part + 1) * ROWS)
        file = folder / Path(name(part)).name
        with h5py.File(file, "w") as made:
            made["images"] = arrays["train"][0][rows].astype(change.get("dtype", np.uint8))
        if part != change.get("unmapped"):
            layout[rows] = h5py.VirtualSource(
                name(part), "images", (ROWS, 3, 2), change.get("dtype", np.uint8)
            )
    path = folder / "set.h5"
    with h5py.File(path, "w") as made:
        for split, (images, labels) in arrays.items():
            made[f"{split}/labels"] = labels
            if split == "test":
                made[f"{split}/images"] = images
        made.create_virtual_dataset("train/images", layout)
    return path, arrays


def test_a_whole_virtual_dataset_is_read(tmp_path: Path) -> None:
    assert_read(*make_virtual(tmp_path))


def test_parts_are_found_where_hdf5_finds_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, tmp_path / "moved"):
        folder.mkdir()
    path, arrays = make_virtual(tmp_path, name=lambda part: f"{tmp_path}/part{part}.h5")
    assert_read(path, arrays)  # by whole paths
    path = path.rename(tmp_path / "moved" / "set.h5")
    for part in range(PARTS):
        (tmp_path / f"part{part}.h5").rename(tmp_path / "moved" / f"part{part}.h5")
    assert_read(path, arrays)  # beside the file, where the whole paths lead nowhere
    link = elsewhere / "link.h5"
    link.symlink_to(path)
    assert_read(link, arrays)  # beside what a link leads to
    for part in range(PARTS):
        (tmp_path / "moved" / f"part{part}.h5").rename(elsewhere / f"part{part}.h5")
    refused(path, r"part0\.h5, which is missing")
    monkeypatch.setenv("HDF5_VDS_PREFIX", f"/nowhere:{elsewhere}")
    assert_read(path, arrays)
    monkeypatch.delenv("HDF5_VDS_PREFIX")
    monkeypatch.chdir(elsewhere)
    assert_read(path, arrays)  # in the current folder


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            lambda part: part.unlink(),
            r"/train/images\[10:15\] is stored in part2\.h5, which is missing, or not visible here",
        ),
        (lambda part: part.write_bytes(b""), r"part2\.h5.* is empty"),
        (
            lambda part: part.write_bytes(part.read_bytes()[:-1]),
            r"part2\.h5 is not a complete HDF5 file",
        ),
        (
            lambda part: (part.unlink(), os.mkfifo(part)),
            r"part2\.h5 is not a regular file: restore that part",
        ),
        (
            lambda part: rewrite(part, put("images", None)),
            r"part2\.h5: [^:]*part2\.h5 has no dataset images",
        ),
        (
            lambda part: rewrite(part, put("images", np.zeros((4, 3, 2), np.uint8))),
            r"shape \(4, 3, 2\), which does not hold all of it",
        ),
        (
            lambda part: rewrite(part, put("images", np.zeros((5, 3, 2)))),
            r"images is float64, it must be uint8",
        ),
        (
            lambda part: rewrite(part, put("images", None), never_written),
            r"part2\.h5: 3 of 3 chunks of images were never written",
        ),
        (
            lambda part: rewrite(part, put("images", None), in_a_file_that_is_missing),
            r"images\[0:5\] is stored in nowhere\.h5, which",
        ),
    ],
    ids=[
        "missing",
        "empty",
        "cut off",
        "a FIFO",
        "no dataset",
        "too short",
        "another type",
        "never written",
        "a part of a part",
    ],
)
def test_a_part_that_is_not_all_there_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], says: str
) -> None:
    path, _ = make_virtual(tmp_path)
    damage(tmp_path / "part2.h5")
    refused(path, says)


def rewrite(path: Path, *changes: Callable[[h5py.File], None]) -> None:
    with h5py.File(path, "r+") as file:
        for change in changes:
            change(file)


def never_written(file: h5py.File) -> None:
    file.create_dataset("images", (5, 3, 2), np.uint8, chunks=(2, 3, 2))


def in_a_file_that_is_missing(file: h5py.File) -> None:
    layout = h5py.VirtualLayout((5, 3, 2), np.uint8)
    layout[:] = h5py.VirtualSource("nowhere.h5", "images", (5, 3, 2))
    file.create_virtual_dataset("images", layout)


def test_rows_that_no_part_holds_are_refused(tmp_path: Path) -> None:
    path, _ = make_virtual(tmp_path, unmapped=1)
    refused(path, r"30 of the 120 values of /train/images")


def test_a_virtual_dataset_without_an_end_is_refused(tmp_path: Path) -> None:
    path, _ = make_virtual(tmp_path)
    layout = h5py.VirtualLayout((PARTS * ROWS, 3, 2), np.uint8, maxshape=(None, 3, 2))
    source = h5py.VirtualSource("part0.h5", "images", (ROWS, 3, 2), maxshape=(None, 3, 2))
    layout[0 : h5py.h5s.UNLIMITED : 1] = source[0 : h5py.h5s.UNLIMITED : 1]
    rewrite(
        path,
        put("train/images", None),
        put("train/labels", np.arange(ROWS)),
        lambda file: file.create_virtual_dataset("train/images", layout),
    )
    refused(path, r"virtual dataset with an open-ended number of parts \(part0\.h5\)")


# -- links


def test_links_of_all_kinds_are_followed(tmp_path: Path) -> None:
    arrays = make_arrays((3, 2), train=20, test=4)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["a/b/images"], other["numbers"] = arrays["train"]
        other["a/soft"] = h5py.SoftLink("b")
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/images"] = h5py.ExternalLink("other.h5", "/a/soft/images")
        file["train/labels"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "numbers")
        file["kept/images"], file["kept/labels"] = arrays["test"]
        file["test"] = h5py.SoftLink("/kept/")
    assert_read(tmp_path / "set.h5", arrays)


@pytest.mark.parametrize(
    ("link", "says"),
    [
        (
            h5py.ExternalLink("nowhere.h5", "/images"),
            r"/train/images is a link into nowhere\.h5, which is missing, or not visible here",
        ),
        (
            h5py.ExternalLink("fifo", "/images"),
            r"/train/images is a link into fifo: .*fifo is not a regular file",
        ),
        (h5py.ExternalLink("set.h5", "/train/images"), "form a loop"),
        (h5py.SoftLink("/train/images"), "form a loop"),
        (h5py.ExternalLink("set.h5", "/nothing"), "dataset /train/images is missing"),
    ],
    ids=["missing", "a FIFO", "a circle", "a soft circle", "nothing there"],
)
def test_a_link_that_leads_nowhere_is_refused(tmp_path: Path, link: Any, says: str) -> None:
    os.mkfifo(tmp_path / "fifo")
    refused(write_as_a_user(tmp_path / "set.h5", put("train/images", link)), says)


def test_control_characters_in_names_are_escaped(tmp_path: Path) -> None:
    link = h5py.ExternalLink("\x1b[2Jnow\nhere.h5", "/images")
    refused(
        write_as_a_user(tmp_path / "set.h5", put("train/images", link)),
        r"is a link into \\x1b\[2Jnow\\nhere\.h5, which is missing",
    )


# -- external raw storage


def test_external_raw_storage_is_refused(tmp_path: Path) -> None:
    path = write_as_a_user(tmp_path / "set.h5", put("train/images", None))
    with h5py.File(path, "r+") as file:
        storage = [(str(tmp_path / "raw.bin"), 0, h5py.h5f.UNLIMITED)]
        file.create_dataset("train/images", data=np.zeros((4, 3, 2), np.uint8), external=storage)
    refused(path, r"external raw storage \(.*raw\.bin\), which is not supported")


# -- rows that were never written, filters that are not here


@pytest.mark.parametrize("name", ["images", "labels"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("chunks", [None, 1, 2], ids=["contiguous", "chunks of 1", "chunks of 2"])
def test_rows_never_written_are_refused(
    tmp_path: Path, name: str, split: str, chunks: int | None
) -> None:
    shape = (4, 3, 2) if name == "images" else (4,)

    def leave_out(file: h5py.File) -> None:
        del file[f"{split}/{name}"]
        dataset = file.create_dataset(
            f"{split}/{name}", shape, np.uint8, chunks=chunks and (chunks, *shape[1:])
        )
        if chunks:
            dataset[:2] = 1

    path = write_as_a_user(tmp_path / "set.h5", leave_out)
    what = f"{2 // chunks} of {4 // chunks} chunks of " if chunks else "values of "
    refused(path, rf"{what}/{split}/{name} were never written")


def test_a_filter_that_is_not_installed_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "set.h5"
    write_as_a_user(path, put("train/images", None))
    with h5py.File(path, "r+") as file:
        creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        creation.set_chunk((4, 3, 2))
        creation.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))
        space = h5py.h5s.create_simple((4, 3, 2))
        dataset = h5py.h5d.create(
            file["train"].id, b"images", h5py.h5t.NATIVE_UINT8, space, creation
        )
        dataset.write_direct_chunk((0, 0, 0), bytes(9))
    monkeypatch.setitem(__import__("sys").modules, "hdf5plugin", None)  # where it is not installed
    refused(path, r"/train/images is compressed with HDF5 filter 32015 .*pip install hdf5plugin")


# -- what changes while it is read


@pytest.mark.parametrize("change", ["rewritten", "replaced", "removed"])
def test_a_part_that_changes_is_noticed(tmp_path: Path, change: str) -> None:
    path, _ = make_virtual(tmp_path)
    part, info = tmp_path / "part2.h5", read_info(path)
    with closing(ExampleFile(info)) as file:
        images, labels = file.empty(PARTS * ROWS)
        file.read("train", range(PARTS * ROWS), images, labels)
        if change == "rewritten":
            with part.open("r+b") as other:
                other.seek(-1, os.SEEK_END)
                other.write(b"\x07")
            os.utime(part)  # a file system may count time in steps of some milliseconds
        else:
            content = part.read_bytes()
            part.rename(tmp_path / "old.h5")
            if change == "replaced":
                part.write_bytes(content)
        with pytest.raises(
            InputError, match=r"part2\.h5 (was changed while it was read|was removed)"
        ):
            file.read("train", range(3), images[:3], labels[:3])


def test_a_linked_file_that_changes_is_noticed(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["images"] = np.zeros((4, 3, 2), np.uint8)
    path = write_as_a_user(
        tmp_path / "set.h5", put("train/images", h5py.ExternalLink("other.h5", "/images"))
    )
    with closing(ExampleFile(read_info(path))) as file:
        images, labels = file.empty(4)
        file.read("train", range(4), images, labels)
        with (tmp_path / "other.h5").open("r+b") as other_file:
            other_file.seek(-1, os.SEEK_END)
            other_file.write(b"\x07")
        os.utime(tmp_path / "other.h5")
        with pytest.raises(InputError, match=r"other\.h5 was changed while it was read"):
            file.read("train", range(4), images, labels)
