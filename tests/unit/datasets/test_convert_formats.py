"""``distcnn.convert`` on files that NumPy, SciPy, h5py, pyarrow, Pillow and csv wrote, in layouts
of Keras, MedMNIST, EMNIST, Kaggle, CIFAR, SVHN, Coursera and Hugging Face: every pixel and label.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
from numpy.typing import NDArray
from PIL import Image

from distcnn.datasets import HDF5Dataset, read_info
from tests.support.converting import COLOR, GRAY, LABELS, TEST, TRAIN, assert_is, convert, refused

ToIdx = Callable[[NDArray[np.integer]], bytes]


# -- NumPy


def test_keras_npz(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "mnist.npz",
        x_train=GRAY[TRAIN], y_train=LABELS[TRAIN].astype(np.uint8),
        x_test=GRAY[TEST], y_test=LABELS[TEST].astype(np.uint8),
    )  # fmt: skip
    found = convert(tmp_path / "mnist.npz")
    assert_is(found, GRAY)
    assert "train split: x_train 8x6x6 uint8, y_train 8 uint8" in found.said


def test_medmnist_npz_joins_the_validation_split_unless_told_otherwise(tmp_path: Path) -> None:
    parts = {"train": slice(5), "val": slice(5, 8), "test": TEST}
    arrays = {f"{name}_images": COLOR[chosen] for name, chosen in parts.items()}
    arrays |= {f"{name}_labels": LABELS[chosen, None] for name, chosen in parts.items()}
    np.savez_compressed(tmp_path / "pathmnist.npz", **arrays)
    found = convert(tmp_path / "pathmnist.npz")
    assert_is(found, COLOR)
    assert "the validation split, 3 images, joins the train split" in found.said
    dropped = convert(tmp_path / "pathmnist.npz", "--validation-split", "drop")
    assert dropped.info.examples == {"train": 5, "test": 4}
    tested = convert(tmp_path / "pathmnist.npz", "--validation-split", "test")
    assert tested.info.examples == {"train": 5, "test": 7}
    del arrays["test_images"], arrays["test_labels"]
    np.savez_compressed(tmp_path / "two.npz", **arrays)
    found = convert(tmp_path / "two.npz")
    assert found.info.examples == {"train": 5, "test": 3}
    assert "the validation split, 3 images, becomes the test split" in found.said


def test_kuzushiji_npz_are_known_by_their_file_names(tmp_path: Path) -> None:
    names = {"imgs": GRAY, "labels": LABELS}
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        for name, array in names.items():
            np.savez(tmp_path / f"kmnist-{split}-{name}.npz", array[chosen])
    assert_is(convert(tmp_path), GRAY)


def test_npy_files(tmp_path: Path) -> None:
    for name, chosen in (("train", TRAIN), ("test", TEST)):
        np.save(tmp_path / f"X_{name}.npy", GRAY[chosen])
        np.save(tmp_path / f"y_{name}.npy", LABELS[chosen])
    assert_is(convert(*sorted(tmp_path.glob("*.npy"))), GRAY)


def test_arrays_without_names_need_flags(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, GRAY[TRAIN], LABELS[TRAIN], GRAY[TEST], LABELS[TEST])
    said = refused(path)
    assert "arr_0 8x6x6 uint8, arr_1 8 int64" in said
    assert "--images NAME --labels NAME" in said
    flags = ["--images", "arr_0", "--labels", "arr_1"]
    tested = ["--test-images", "arr_2", "--test-labels", "arr_3"]
    assert_is(convert(path, *flags, *tested), GRAY)
    assert convert(path, *flags).info.examples == {"train": 5, "test": 3}
    assert "arr_9" in refused(path, "--images", "arr_9", "--labels", "arr_1")
    assert "give both" in refused(path, "--images", "arr_0")


# -- CIFAR


def cifar_10(folder: Path, binary: bool) -> Path:
    """Five batches, of 2, 2, 2, 1 and 1 images, and the test batch, as CIFAR-10's authors write."""
    folder.mkdir()
    bounds = [0, 2, 4, 6, 7, 8, 12]
    planar = COLOR.transpose(0, 3, 1, 2).reshape(12, -1)
    for index in range(6):
        name = f"data_batch_{index + 1}" if index < 5 else "test_batch"
        chosen = slice(bounds[index], bounds[index + 1])
        if binary:
            table = np.hstack([LABELS[chosen, None], planar[chosen]]).astype(np.uint8)
            (folder / f"{name}.bin").write_bytes(table.tobytes())
        else:
            batch = {
                b"batch_label": b"training batch",
                b"labels": LABELS[chosen].tolist(),
                b"data": planar[chosen],
                b"filenames": [b"x.png"] * len(planar[chosen]),
            }
            (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        (folder / "batches.meta.txt").write_text("plane\ncar\nbird\n\n")
    else:
        meta = {b"num_vis": 3072, b"label_names": [b"plane", b"car", b"bird"]}
        (folder / "batches.meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


@pytest.mark.parametrize("binary", [False, True], ids=["pickled", "binary"])
@pytest.mark.parametrize("archived", [False, True], ids=["folder", "archive"])
def test_cifar_10(tmp_path: Path, binary: bool, archived: bool) -> None:
    source = cifar_10(tmp_path / "cifar-10-batches", binary)
    if archived:
        with tarfile.open(tmp_path / "c.tar.gz", "w:gz") as archive:
            archive.add(source, "cifar-10-batches")
        source = tmp_path / "c.tar.gz"
    found = convert(source)
    assert_is(found, COLOR)
    assert found.info.class_names == ("plane", "car", "bird")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cifar_10_pickled_again_by_another_python(tmp_path: Path, protocol: int) -> None:
    folder = cifar_10(tmp_path / "cifar", False)
    for path in folder.iterdir():
        path.write_bytes(pickle.dumps(pickle.loads(path.read_bytes()), protocol=protocol))
    assert_is(convert(folder), COLOR)


def test_a_batch_as_python_2_wrote_it(tmp_path: Path) -> None:
    folder = cifar_10(tmp_path / "cifar", False)
    pixels = COLOR[:2].transpose(0, 3, 1, 2).tobytes()
    python_2 = (
        b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\n"
        b"q\x04K\x00\x85U\x01b\x87Rq\x05(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\x06U\x02u1K\x00"
        b"K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89T"
        + len(pixels).to_bytes(4, "little")
        + pixels
        + b"tbU\x06labelsq\x08]q\t(K\x00K\x02eu."
    )
    (folder / "data_batch_1").write_bytes(python_2)
    assert_is(convert(folder), COLOR)


@pytest.mark.parametrize("binary", [False, True], ids=["pickled", "binary"])
def test_cifar_100_has_fine_and_coarse_labels(tmp_path: Path, binary: bool) -> None:
    planar = COLOR.transpose(0, 3, 1, 2).reshape(12, -1)
    coarse = LABELS // 2
    for name, chosen in (("train", TRAIN), ("test", TEST)):
        if binary:
            columns = [coarse[chosen, None], LABELS[chosen, None], planar[chosen]]
            (tmp_path / f"{name}.bin").write_bytes(np.hstack(columns).astype(np.uint8).tobytes())
        else:
            batch = {"fine_labels": LABELS[chosen].tolist(), "data": planar[chosen]}
            batch["coarse_labels"] = coarse[chosen].tolist()
            (tmp_path / name).write_bytes(pickle.dumps(batch, protocol=2))
    if binary:
        (tmp_path / "fine_label_names.txt").write_text("apple\nbear\nbed\n")
        (tmp_path / "coarse_label_names.txt").write_text("food\nfurniture\n")
    else:
        meta = {"fine_label_names": ["apple", "bear", "bed"]}
        meta["coarse_label_names"] = ["food", "furniture"]
        (tmp_path / "meta").write_bytes(pickle.dumps(meta))
    found = convert(tmp_path)
    assert_is(found, COLOR)
    assert found.info.class_names == ("apple", "bear", "bed")
    found = convert(tmp_path, "--coarse")
    assert_is(found, COLOR, coarse)
    assert found.info.class_names == ("food", "furniture")


# -- MATLAB


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_svhn_mat_where_10_is_the_digit_0(tmp_path: Path, compressed: bool) -> None:
    labels = np.where(LABELS == 0, 10, LABELS)
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        variables = {"X": COLOR[chosen].transpose(1, 2, 3, 0), "y": labels[chosen, None]}
        path = tmp_path / f"{split}_32x32.mat"
        scipy.io.savemat(path, variables, do_compression=compressed)
    found = convert(*tmp_path.glob("*.mat"))
    assert_is(found, COLOR)
    assert found.info.class_names == tuple("0123456789")
    assert "label 10 is the digit 0" in found.said


def test_mat_with_rows_of_pixels_asks_for_their_order(tmp_path: Path) -> None:
    path = tmp_path / "digits.mat"
    columns = GRAY.transpose(0, 2, 1).reshape(12, -1)
    scipy.io.savemat(path, {"X": columns / 255, "y": LABELS[:, None] + 1.0})
    assert "--transpose or --no-transpose" in refused(path)
    for flag, images in (("--transpose", GRAY), ("--no-transpose", columns.reshape(12, 6, 6))):
        found = convert(path, flag)
        everything = np.concatenate([found.train[0], found.test[0]])[..., 0]
        assert {image.tobytes() for image in everything} == {image.tobytes() for image in images}
    assert found.info.class_names == ("1", "2", "3")


def test_cifar_10_mat(tmp_path: Path) -> None:
    planar = COLOR.transpose(0, 3, 1, 2).reshape(12, -1)
    for name, chosen in (("data_batch_1", TRAIN), ("test_batch", TEST)):
        labels = LABELS[chosen, None].astype(np.uint8)
        scipy.io.savemat(tmp_path / f"{name}.mat", {"data": planar[chosen], "labels": labels})
    names = np.array(["cat", "dog", "eel"], object)
    scipy.io.savemat(tmp_path / "batches.meta.mat", {"label_names": names})
    assert_is(convert(tmp_path), COLOR)


def test_emnist_mat_has_structs_and_names(tmp_path: Path) -> None:
    columns = GRAY.transpose(0, 2, 1).reshape(12, -1)
    parts = {
        split: {"images": columns[chosen], "labels": LABELS[chosen, None] + 1}
        for split, chosen in (("train", TRAIN), ("test", TEST))
    }
    mapping = np.array([[1, 65, 97], [2, 66, 98], [3, 67, 99]])
    path = tmp_path / "emnist-letters.mat"
    scipy.io.savemat(path, {"dataset": {**parts, "mapping": mapping}}, do_compression=True)
    found = convert(path)
    assert_is(found, GRAY)
    assert found.info.class_names == ("A/a", "B/b", "C/c")


def test_mat_of_version_7_3_has_reversed_axes(tmp_path: Path) -> None:
    path = tmp_path / "v73.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        for split, chosen in (("train", TRAIN), ("test", TEST)):
            file[f"{split}_images"] = COLOR[chosen].transpose(3, 2, 1, 0)  # MATLAB: (N, H, W, C)
            file[f"{split}_labels"] = LABELS[chosen][None] * 1.0
    head = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM"
    path.write_bytes(head + path.read_bytes()[128:])
    assert_is(convert(path), COLOR)


def big_endian_mat(**variables: NDArray[Any]) -> bytes:
    """As programs on other processors write MATLAB's files."""

    def element(kind: int, content: bytes) -> bytes:
        return struct.pack(">II", kind, len(content)) + content + bytes(-len(content) % 8)

    file = b"MATLAB 5.0 MAT-file".ljust(124) + b"\1\0MI"
    for name, array in variables.items():
        flags = element(6, struct.pack(">II", 6, 0))  # a matrix of doubles ...
        shape = element(5, np.array(array.shape, ">i4").tobytes())
        values = element(4, array.astype(">u2").tobytes(order="F"))  # ... stored as 16 bits
        file += element(14, flags + shape + element(1, name.encode()) + values)
    return file


def test_mat_of_other_processors(tmp_path: Path) -> None:
    path = tmp_path / "a.mat"
    images = COLOR[:, :20].transpose(1, 2, 3, 0)
    path.write_bytes(big_endian_mat(X=images, y=LABELS[:, None]))
    assert np.array_equal(scipy.io.loadmat(path)["X"], images)
    found = convert(path)
    everything = np.concatenate([found.train[0], found.test[0]])
    assert {image.tobytes() for image in everything} == {each.tobytes() for each in COLOR[:, :20]}


# -- HDF5


def test_coursera_hdf5(tmp_path: Path) -> None:
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        with h5py.File(tmp_path / f"{split}_catvnoncat.h5", "w") as file:
            file[f"{split}_set_x"], file[f"{split}_set_y"] = COLOR[chosen], LABELS[chosen]
            file["list_classes"] = np.array([b"dog", b"cat", b"cow"])
    found = convert(tmp_path)
    assert_is(found, COLOR)
    assert found.info.class_names == ("dog", "cat", "cow")


@pytest.mark.parametrize(
    "names", ["{}/images {}/labels", "{}/data {}/target", "images/{} labels/{}"]
)
def test_hdf5_with_groups(tmp_path: Path, names: str) -> None:
    images, labels = names.split()
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for split, chosen in (("train", TRAIN), ("test", TEST)):
            file.create_dataset(
                images.format(split), data=GRAY[chosen], chunks=(3, 6, 6), compression="gzip"
            )
            file.create_dataset(labels.format(split), data=LABELS[chosen].astype("i2"))
    assert_is(convert(tmp_path / "a.h5"), GRAY)


def test_hdf5_files_of_images_and_of_labels_with_more_axes(tmp_path: Path) -> None:
    """PatchCamelyon's."""
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        with h5py.File(tmp_path / f"patch_split_{split}_x.h5", "w") as file:
            file["x"] = COLOR[chosen]
        with h5py.File(tmp_path / f"patch_split_{split}_y.h5", "w") as file:
            file["y"] = LABELS[chosen].reshape(-1, 1, 1, 1)
    assert_is(convert(tmp_path), COLOR)


def test_hdf5_with_other_names_and_text_labels(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["galaxies"] = GRAY
        file["kind"] = np.array(["spiral", "ring", "disk"], object)[LABELS]
    assert "galaxies 12x6x6 uint8, kind 12 object" in refused(path)
    found = convert(path, "--images", "galaxies", "--labels", "kind")
    assert found.info.class_names == ("disk", "ring", "spiral")


# -- Parquet


def png(image: NDArray[np.uint8]) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(image).save(memory, "PNG")
    return memory.getvalue()


def write_parquet(path: Path, images: list[bytes], labels: Any, names: list[str]) -> None:
    """As Hugging Face's library writes a data set with an Image and a ClassLabel."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    cells = [{"bytes": content, "path": "x.png"} for content in images]
    table = pyarrow.table({"image": pyarrow.array(cells, kind), "label": pyarrow.array(labels)})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), path)


@pytest.mark.parametrize("images", [GRAY, COLOR], ids=["gray", "color"])
def test_hugging_face_parquet(tmp_path: Path, images: NDArray[np.uint8]) -> None:
    parts = {"train-00000-of-00002": slice(5), "train-00001-of-00002": slice(5, 8), "test-0": TEST}
    for name, chosen in parts.items():
        encoded = [png(image) for image in images[chosen]]
        path = tmp_path / f"data/{name}.parquet"
        write_parquet(path, encoded, LABELS[chosen], ["cat", "dog", "cow"])
    found = convert(tmp_path)
    assert_is(found, images)
    assert found.info.class_names == ("cat", "dog", "cow")


def test_parquet_of_bytes_with_text_labels_and_sizes_that_differ(tmp_path: Path) -> None:
    content = [png(image[: 4 + index % 2]) for index, image in enumerate(GRAY)]
    names = [["cat", "dog", "cow"][label] for label in LABELS]
    table = pyarrow.table({"picture": content, "breed": names, "age": LABELS})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    assert "--labels NAME" in refused(path)
    assert "--size HxW" in refused(path, "--labels", "breed")
    found = convert(path, "--labels", "breed", "--size", "4x6")
    assert (found.info.class_names, found.info.image_shape) == (("cat", "cow", "dog"), (1, 4, 6))


# -- IDX


@pytest.fixture
def emnist(tmp_path: Path, idx: ToIdx) -> Path:
    folder = tmp_path / "gzip"
    folder.mkdir()
    for split, chosen in (("train", TRAIN), ("test", TEST)):
        name = f"emnist-letters-{split}-{{}}-ubyte.gz"
        images = gzip.compress(idx(GRAY[chosen].swapaxes(1, 2)))
        (folder / name.format("images-idx3")).write_bytes(images)
        (folder / name.format("labels-idx1")).write_bytes(gzip.compress(idx(LABELS[chosen] + 1)))
    return folder


def test_emnist_is_turned_upright_and_numbered_from_0(emnist: Path) -> None:
    found = convert(emnist)
    assert_is(found, GRAY)
    assert found.info.class_names == ("1", "2", "3")
    assert "turned upright" in found.said
    assert_is(convert(emnist, "--no-transpose"), GRAY.swapaxes(1, 2))


def test_emnist_has_names_in_its_mapping(emnist: Path) -> None:
    mapping = emnist / "emnist-letters-mapping.txt"
    mapping.write_text("1 65 97\n2 66 98\n3 67 99\n")
    for sources in ([emnist], sorted(emnist.iterdir())):
        assert convert(*sources).info.class_names == ("A/a", "B/b", "C/c")
    mapping.write_text("A is 1\n")
    assert "emnist-letters-mapping.txt" in refused(emnist)


def test_idx_files_are_named_one_by_one(idx_folder: Path, emnist: Path) -> None:
    found = convert(*sorted(idx_folder.iterdir()))
    assert found.info.examples == {"train": 5, "test": 3}
    only = sorted(emnist.glob("*train*"))
    assert convert(*only).info.examples == {"train": 5, "test": 3}
    assert "train labels is missing" in refused(only[0])


# -- folders of images


def test_a_folder_of_images_is_the_same_set_as_from_images_makes(
    tmp_path: Path, image_folder: Path
) -> None:
    from distcnn.datasets.commands import images_command

    output = tmp_path / "door.h5"
    assert images_command([str(image_folder), "--output", str(output)]) == 0
    assert convert(image_folder).info.sha256 == read_info(output).sha256
    other = convert(image_folder, "--seed", "1", "--size", "3x2")
    assert other.info.image_shape == (1, 3, 2)


def test_a_validation_folder_joins_the_training_images(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for label, name in enumerate("ab"):
            for index in range(count):
                path = tmp_path / f"in/{split}/{name}/{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(GRAY[label + index]).save(path)
    assert convert(tmp_path / "in").info.examples == {"train": 10, "test": 2}
    flags = ["--validation-split", "drop"]
    assert convert(tmp_path / "in", *flags).info.examples == {"train": 6, "test": 2}


def test_a_converted_set_can_be_converted_again(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=COLOR, y=LABELS)
    first = convert(tmp_path / "a.npz")
    second = convert(Path(first.info.path))
    assert second.info.sha256 == first.info.sha256
    assert HDF5Dataset(first.info.path).read("train")[0].shape[1:] == (32, 32, 3)


def test_the_same_images_give_the_same_set_from_any_format(tmp_path: Path, idx: ToIdx) -> None:
    gray = {"train": GRAY[TRAIN], "test": GRAY[TEST]}
    labels = {"train": LABELS[TRAIN], "test": LABELS[TEST]}
    folders = {name: tmp_path / name for name in ("raw", "gzipped", "npz", "csv", "mat", "hdf5")}
    for folder in folders.values():
        folder.mkdir()
    for split, name in (("train", "train"), ("test", "t10k")):
        for part, array in (("images-idx3", gray[split]), ("labels-idx1", labels[split])):
            (folders["raw"] / f"{name}-{part}-ubyte").write_bytes(idx(array))
            content = gzip.compress(idx(array))
            (folders["gzipped"] / f"{name}-{part}-ubyte.gz").write_bytes(content)
        rows = np.column_stack([labels[split], gray[split].reshape(len(gray[split]), -1)])
        np.savetxt(folders["csv"] / f"mnist_{split}.csv", rows, "%d", delimiter=",")
    keras = {f"x_{split}": array for split, array in gray.items()}
    keras |= {f"y_{split}": array for split, array in labels.items()}
    np.savez(folders["npz"] / "mnist.npz", **keras)
    with h5py.File(folders["hdf5"] / "mnist.h5", "w") as file:
        for name, array in keras.items():
            file[name] = array
    matlab = {name: np.moveaxis(array, 0, -1) for name, array in keras.items()}
    scipy.io.savemat(folders["mat"] / "mnist.mat", matlab)
    flags = {"csv": ["--labels", "first"]}
    found = {name: convert(folder, *flags.get(name, [])) for name, folder in folders.items()}
    assert len({each.info.sha256 for each in found.values()}) == 1
    assert_is(found["csv"], GRAY)
