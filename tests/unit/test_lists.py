"""FaceLift's lists as people write them: never more scenes than are listed, in any encoding that says what it is."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from pipeline.data.incoming.lists import listed_splits
from pipeline.errors import DataError

SCENES = ("one", "two", "three")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in SCENES:
        (tmp_path / "mice" / name).mkdir(parents=True)
    (tmp_path / "mice" / "val.txt").write_text("three")
    return tmp_path / "mice"


def train(root: Path, content: str | bytes, data_root: Path | None = None) -> tuple[str, ...]:
    (root / "train.txt").write_bytes(content.encode() if isinstance(content, str) else content)
    splits = listed_splits(root, data_root)
    assert splits is not None
    return splits["train"]


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        listed_splits(root, None)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "mice")


def test_a_folder_without_lists_has_none(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("one")
    assert listed_splits(tmp_path, None) is None


def test_a_word_that_has_a_splits_name_in_it_names_no_list_and_that_is_said(tmp_path: Path, caplog) -> None:
    for name in ("latest", "intervals", "evaluation_results", "training_log", "values", "contest", "retrain"):
        (tmp_path / f"{name}.txt").write_text("one")
    assert listed_splits(tmp_path, None) is None
    assert "no lists by their names, and not read: contest.txt" in caplog.text


@pytest.mark.parametrize(
    "names",
    [
        ("train", "validation"),
        ("data_mouse_train", "mouse_val"),
        ("train2", "val2"),
        ("TRAIN-list", "3val"),
        ("a.train", "b.val"),
    ],
)
def test_a_splits_name_as_a_word_names_its_list(root: Path, names: tuple[str, str]) -> None:
    (root / "val.txt").rename(root / f"{names[1]}.txt")
    (root / f"{names[0]}.txt").write_text("one")
    assert listed_splits(root, None) == {"train": ("one",), "val": ("three",), "test": ()}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_one_list_alone_is_not_taken_for_none(root: Path, split: str) -> None:
    (root / "val.txt").rename(root / f"my_{split}.txt")
    missing = "val" if split == "train" else "train"
    assert refusal(root).startswith(
        f"mice: expected a list *{missing}*.txt that names scenes, got my_{split}.txt alone"
    )


@pytest.mark.parametrize("content", ["", "\n \n", "# one\n"])
def test_an_empty_list_is_refused(root: Path, content: str) -> None:
    (root / "train.txt").write_text(content)
    assert refusal(root).startswith("mice: expected a list *train*.txt that names scenes, got an empty one")


def test_a_list_is_one_whatever_the_case_of_its_name(root: Path) -> None:
    (root / "Train.TXT").write_text("one")
    assert listed_splits(root, None) == {"train": ("one",), "val": ("three",), "test": ()}


@pytest.mark.parametrize("name", ["trainval.txt", "train_val.txt"])
def test_a_list_that_two_splits_claim_is_refused(root: Path, name: str) -> None:
    (root / "val.txt").rename(root / name)
    assert refusal(root).startswith(f"mice/{name}: expected a list of one split")


@pytest.mark.parametrize(
    "content",
    [
        "one\r\ntwo",
        "one\rtwo\r",
        "  one \n\ttwo\t\n\n\n",
        "# mice\none\n#three\ntwo",
        "one/\n./two",
        "three/../one\ntwo",
    ],
    ids=["Windows", "old Mac", "blanks", "comments", "slashes", "detour"],
)
def test_lines_are_read_as_they_are_meant(root: Path, content: str) -> None:
    assert train(root, content) == ("one", "two")


@pytest.mark.parametrize("name", ["#1", "a b", "mäuse", "쥐", "back\\slash"])
def test_a_scene_may_have_any_name(root: Path, name: str) -> None:
    (root / name).mkdir()
    assert train(root, f"{name}\none") == (name, "one")


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_list_is_read_by_its_mark(root: Path, mark: bytes, encoding: str) -> None:
    assert train(root, mark + "one\r\nmäuse\r\n".encode(encoding)) == ("one", "mäuse")


@pytest.mark.parametrize("content", ["mäuse".encode("latin-1"), "one\ntwo".encode("utf-16-le"), b"\xff\xfeo"])
def test_another_encoding_is_refused(root: Path, content: bytes) -> None:
    (root / "train.txt").write_bytes(content)
    said = refusal(root)
    assert said.startswith("mice/train.txt:") and said.endswith(" — save the file as UTF-8.")


@pytest.mark.parametrize("line", ["D:\\data\\mice\\one", "\\\\server\\mice\\one", "/srv/mice/one"])
def test_an_absolute_path_of_another_machine_is_found_by_its_name(root: Path, line: str) -> None:
    assert train(root, line) == ("one",)


def test_an_absolute_path_of_windows_is_found_below_the_data_root(root: Path) -> None:
    assert train(root, "D:\\data\\mice\\one", data_root=root.parent) == ("one",)


def test_a_relative_path_of_windows_is_one(root: Path) -> None:
    (root / "more" / "four").mkdir(parents=True)
    assert train(root, "more\\four") == ("more/four",)


def test_a_scene_that_is_listed_twice_is_taken_once_and_that_is_said(root: Path, caplog) -> None:
    assert train(root, f"one\n./one\n{root}/one\ntwo") == ("one", "two")
    assert "one is listed more than once" in caplog.text


def test_two_folders_of_one_name_are_not_taken_for_one_scene(root: Path) -> None:
    (root / "train.txt").write_text("/srv/a/one\n/srv/b/one")
    assert refusal(root).startswith(
        "mice/train.txt: expected scenes of different folders, got /srv/a/one and /srv/b/one"
    )


def test_a_scene_of_both_training_and_evaluation_is_said(root: Path, caplog) -> None:
    assert train(root, "one\nthree") == ("one", "three")
    assert "mice: listed for training and for evaluation: three" in caplog.text
