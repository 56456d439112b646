"""What is written whole: there entirely or not at all, whatever happens on the way."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.files import link_or_copy, sha256_of, whole, whole_folder, write_whole


class StopError(Exception):
    """What a block raises here."""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fail_in_a_file(path: Path) -> None:
    with whole(path) as temporary:
        temporary.write_text("half")
        raise StopError


def fail_in_a_folder(path: Path) -> None:
    with whole_folder(path) as temporary:
        (temporary / "half").write_text("half")
        raise StopError


def test_a_file_is_not_seen_before_its_block_ends(tmp_path: Path) -> None:
    with whole(tmp_path / "a.json") as temporary:
        temporary.write_text("new")
        assert not (tmp_path / "a.json").exists()
    assert (tmp_path / "a.json").read_text() == "new" and names(tmp_path) == ["a.json"]


def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.json", "old")
    with pytest.raises(StopError):
        fail_in_a_file(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "old" and names(tmp_path) == ["a.json"]


def test_text_is_utf_8_and_bytes_are_themselves(tmp_path: Path) -> None:
    assert write_whole(tmp_path / "a", "é").read_bytes() == "é".encode()
    assert write_whole(tmp_path / "a", b"\xff").read_bytes() == b"\xff"


def test_a_folder_takes_the_place_of_the_one_that_stood_there(tmp_path: Path) -> None:
    for word in ("old", "new"):
        with whole_folder(tmp_path / "runs" / "a") as temporary:
            (temporary / word).write_text(word)
    assert names(tmp_path / "runs") == ["a"] and names(tmp_path / "runs" / "a") == ["new"]


def test_a_block_that_raises_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "a") as temporary:
        (temporary / "old").write_text("old")
    with pytest.raises(StopError):
        fail_in_a_folder(tmp_path / "a")
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == ["old"]


def test_what_a_killed_process_of_the_same_number_left_is_not_in_the_folder(tmp_path: Path) -> None:
    left = tmp_path / f".a.{os.getpid()}.{threading.get_ident()}"
    left.mkdir()
    (left / "stale").write_text("stale")
    with whole_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"] and names(tmp_path / "a") == []


def test_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    together, contents = threading.Barrier(2), ("1" * 1000, "2" * 1000)

    def write(content: str) -> None:
        with whole(tmp_path / "a") as temporary:
            temporary.write_text(content[:500])
            together.wait(timeout=10)
            temporary.write_text(content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in contents and names(tmp_path) == ["a"]


def test_threads_that_write_the_same_folder_leave_one_of_theirs(tmp_path: Path) -> None:
    together, failed = threading.Barrier(4), []

    def write(word: str) -> None:
        for _ in range(50):
            together.wait(timeout=10)
            try:
                with whole_folder(tmp_path / "a") as temporary:
                    (temporary / word).write_text(word)
            except OSError as error:
                failed.append(error)

    threads = [threading.Thread(target=write, args=(word,)) for word in "1234"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == [] and names(tmp_path) == ["a"] and len(names(tmp_path / "a")) == 1


def test_a_file_is_not_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a file")
    with pytest.raises(NotADirectoryError), whole_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == ["a"] and (tmp_path / "a").read_text() == "a file"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_what_the_umask_leaves(tmp_path: Path, mask: int) -> None:
    def modes() -> list[int]:
        write_whole(tmp_path / "file", "")
        with whole_folder(tmp_path / "folder"):
            pass
        return [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("file", "folder")]

    assert under_mask(mask, modes) == [0o666 & ~mask, 0o777 & ~mask]


def under_mask(mask: int, work: Callable[[], list[int]]) -> list[int]:
    before = os.umask(mask)
    try:
        return work()
    finally:
        os.umask(before)


def test_a_hidden_file_has_no_second_dot_on_its_way(tmp_path: Path) -> None:
    with whole(tmp_path / ".hashes.json") as temporary:
        assert temporary.name.startswith(".hashes.json.")
        temporary.write_text("")


def test_a_second_name_needs_no_second_copy(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").samefile(tmp_path / "a")


def test_a_file_is_copied_where_it_cannot_have_a_second_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*paths: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_text("content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "content" and not (tmp_path / "b").samefile(tmp_path / "a")


def test_sha256_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def closed(path: Path) -> None:
    """As safetensors and all users of mkstemp write: for the owner alone."""
    path.write_text("weights")
    path.chmod(0o600)


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_those_may_read_a_file_whom_the_umask_lets(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with whole(tmp_path / "prompts") as temporary:
            closed(temporary)
        with whole_folder(tmp_path / "checkpoint") as folder:
            (folder / "below").mkdir()
            closed(folder / "below" / "weights")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()} == {mode}
    assert names(tmp_path) == ["checkpoint", "prompts"]


def test_somebodys_original_keeps_its_rights_when_a_folder_links_to_it(tmp_path: Path) -> None:
    closed(tmp_path / "mine")
    with whole_folder(tmp_path / "folder") as folder:
        link_or_copy(tmp_path / "mine", folder / "mine")
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o600
