"""Files are whole or absent: what is left when writing fails or is killed, what a reader sees, what
is synced when.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from distcnn.system.files import TEMPORARY, append, read_bytes, sync_folder, write_atomically
from tests.support.full_disk import full_disk

SYNC = pytest.mark.parametrize("sync", [True, False], ids=["synced", "not synced"])


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


@SYNC
@pytest.mark.parametrize(
    "parts", [(), (b"",), (b"one",), (b"one, ", b"", b"two")], ids=["none", "empty", "one", "three"]
)
def test_the_parts_are_written_one_after_the_other(
    tmp_path: Path, parts: tuple[bytes, ...], sync: bool
) -> None:
    write_atomically(tmp_path / "file", *parts, sync=sync)
    assert (tmp_path / "file").read_bytes() == b"".join(parts)
    assert names(tmp_path) == ["file"]


@SYNC
def test_an_older_file_is_replaced_and_not_written_into(tmp_path: Path, sync: bool) -> None:
    path, held = tmp_path / "file", tmp_path / "held"
    path.write_bytes(b"older and longer")
    held.hardlink_to(path)  # what a reader that has it open goes on reading
    write_atomically(path, b"newer", sync=sync)
    assert (path.read_bytes(), held.read_bytes()) == (b"newer", b"older and longer")


def test_no_temporary_name_can_be_guessed_or_taken_by_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, open_ = dict[Path, int](), os.open
    monkeypatch.setattr(
        os,
        "open",
        lambda path, flags, *mode: opened.update({path: flags}) or open_(path, flags, *mode),
    )
    for _ in range(2):
        write_atomically(tmp_path / "file", b"content", sync=False)
    assert len(opened) == 2
    assert all(flags & os.O_EXCL and flags & os.O_NOFOLLOW for flags in opened.values())


def test_links_are_not_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("precious")
    for name in ("link", ".link.tmp"):
        (tmp_path / name).symlink_to(victim)
    for refused in (lambda: append(link, "line\n"), lambda: read_bytes(link)):
        with pytest.raises(OSError, match="it is a symbolic link"):
            refused()
    write_atomically(link, b"content")
    assert (link.is_symlink(), link.read_bytes(), victim.read_text()) == (
        False,
        b"content",
        "precious",
    )


def test_what_is_not_a_regular_file_is_an_os_error_and_blocks_nobody(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path / "pipe")
    with pytest.raises(OSError, match="No such device or address"):  # it has no reader
        append(tmp_path / "pipe", "line\n")
    with pytest.raises(OSError, match="it is a folder"):
        read_bytes(tmp_path)


def test_lines_are_appended(tmp_path: Path) -> None:
    for line in ("one\n", "größer\n"):
        append(tmp_path / "file", line.encode())
    assert read_bytes(tmp_path / "file") == "one\ngrößer\n".encode()


@SYNC
@pytest.mark.parametrize("older", [None, b"older"], ids=["no older file", "an older file"])
@pytest.mark.parametrize(
    "size", [10, 1_000_000], ids=["found when it is flushed", "found when it is written"]
)
def test_a_full_disk_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, size: int, older: bytes | None, sync: bool
) -> None:
    path = tmp_path / "file"
    if older is not None:
        path.write_bytes(older)
    before = names(tmp_path)
    with full_disk(), pytest.raises(OSError, match="No space left on device"):
        write_atomically(path, b"x" * size, sync=sync)
    assert names(tmp_path) == before
    assert older is None or path.read_bytes() == older


def test_a_name_that_cannot_be_taken_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "file", b"content")
    assert names(tmp_path) == ["file"]


def test_a_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "none" / "file", b"content")


def kind_of(path: Path) -> str:
    return "temporary" if TEMPORARY.fullmatch(path.name) else path.name


def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The syncs and renames from now on, in order; they take place."""
    done: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def noted_fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(
            f"fsync {kind_of(path)}"
            + (f" ({os.fstat(descriptor).st_size} bytes)" if path.is_file() else "")
        )
        fsync(descriptor)

    def noted_replace(path: Path, target: Path) -> Path:
        done.append(f"rename {kind_of(path)} {target.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Path, "replace", noted_replace)
    return done


def test_the_file_is_synced_whole_before_its_rename_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = calls(monkeypatch)
    write_atomically(tmp_path / "file", b"12345", b"67")
    assert done == ["fsync temporary (7 bytes)", "rename temporary file", f"fsync {tmp_path.name}"]


def test_without_sync_nothing_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = calls(monkeypatch)
    write_atomically(tmp_path / "file", b"12345", sync=False)
    assert done == ["rename temporary file"]


def test_a_folder_that_cannot_be_synced_is_left_alone(tmp_path: Path) -> None:
    sync_folder(tmp_path / "none")
    sync_folder(Path("/proc"))
