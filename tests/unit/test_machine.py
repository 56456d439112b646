"""The machine as it is: users without a name, homes that cannot be written to, outputs that cannot be made."""

from __future__ import annotations

import errno
import json
import os
import platform
import stat
from pathlib import Path

import pytest

from pipeline.errors import OutputError
from pipeline.machine.cpus import cpu_kind
from pipeline.machine.outputs import require_file, require_folder, told
from tests.support import strangers

ACCOUNT = """
import getpass, json, os
from pathlib import Path
from pipeline.machine import account
account.settle()
names = ("LOGNAME", "HOME", "XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME")
found = {name: os.environ.get(name) for name in names}
print(json.dumps(found | {"user": getpass.getuser(), "home": str(Path.home())}))
"""


@pytest.fixture
def open_folder(tmp_path):
    """A folder that everyone may write to, below folders that everyone may enter."""
    for folder in (tmp_path, *list(tmp_path.parents)[:2]):
        folder.chmod(0o755)
    folder = tmp_path / "temporary"
    folder.mkdir()
    folder.chmod(0o777)
    return folder


def settled(cwd: Path, **environment: str) -> dict[str, str]:
    found = strangers.python(ACCOUNT, cwd, **environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)


@strangers.needs_root
def test_a_user_without_a_name_goes_by_the_number(open_folder):
    assert settled(open_folder, HOME=str(open_folder), TMPDIR=str(open_folder))["user"] == str(strangers.UID)


@strangers.needs_root
def test_a_user_without_a_home_gets_one_among_the_temporary_files(open_folder):
    home = open_folder / f"mouselift-{strangers.UID}"
    assert settled(open_folder, TMPDIR=str(open_folder))["home"] == str(home)
    assert stat.S_IMODE(home.stat().st_mode) == 0o700


@strangers.needs_root
@pytest.mark.parametrize("home", ["/", "", "/nonexistent", "/root"])
def test_a_home_that_takes_no_files_keeps_its_name_and_caches_go_elsewhere(open_folder, home):
    own = str(open_folder / f"mouselift-{strangers.UID}")
    found = settled(open_folder, HOME=home, TMPDIR=str(open_folder))
    assert found["HOME"] == home
    assert {found[name] for name in ("XDG_CACHE_HOME", "MPLCONFIGDIR", "TRITON_HOME")} == {own}


@strangers.needs_root
def test_a_folder_that_someone_else_made_under_our_name_is_not_trusted(open_folder):
    squatted = open_folder / f"mouselift-{strangers.UID}"
    squatted.mkdir()
    squatted.chmod(0o777)
    taken = settled(open_folder, HOME="/", TMPDIR=str(open_folder))["XDG_CACHE_HOME"]
    assert taken != str(squatted)
    assert Path(taken).stat().st_uid == strangers.UID


@strangers.needs_root
def test_the_renderer_is_compiled_where_nothing_but_temporary_files_can_be_written(open_folder):
    found = strangers.python(
        "from pipeline.splatting import rasterize_cpu", open_folder, HOME="/", TMPDIR=str(open_folder)
    )
    assert (found.returncode, found.stderr) == (0, "")


def test_an_account_that_lacks_nothing_stays_as_it_is(tmp_path, monkeypatch):
    from pipeline.machine import account

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("LOGNAME", "anna")
    before = dict(os.environ)
    account.settle()
    assert dict(os.environ) == before


@pytest.mark.parametrize("where", ["here", "here/below", "new/below"])
def test_a_folder_that_can_be_made_is_not_made(tmp_path, where):
    (tmp_path / "here").mkdir()
    require_folder(tmp_path / where)
    assert [path.name for path in tmp_path.rglob("*")] == ["here"]


def test_a_file_in_the_place_of_a_folder_or_on_the_way_to_it_is_named(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    for path, came in (("file", "a file"), ("file/out", f"the file {tmp_path}/file in the way"), ("link", "a link to")):
        with pytest.raises(OutputError, match=f"{path}: expected a folder that can be written to, got {came}"):
            require_folder(tmp_path / path)


def test_a_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(OutputError, match="expected a file to write, got a folder"):
        require_file(tmp_path)


@strangers.needs_root
def test_a_folder_that_the_user_may_not_write_to_is_named(open_folder):
    closed = open_folder.parent / "closed"
    closed.mkdir()
    code = f"from pathlib import Path; from pipeline.machine.outputs import *; require_folder(Path({str(closed)!r}))"
    said = strangers.python(code, open_folder, TMPDIR=str(open_folder)).stderr.splitlines()[-1]
    assert said.partition(": ")[2] == (
        f"{closed}: expected a folder that can be written to, got Permission denied — make it writable, or name "
        "another folder."
    )


def test_a_refusal_of_the_file_system_is_one_line():
    assert told(PermissionError(errno.EACCES, "Permission denied", "data/cam.png")) == (
        "data/cam.png: expected a path that this user may use, got Permission denied — see to its rights, or name "
        "another."
    )


def test_the_kind_of_a_cpu_is_what_the_system_says_of_it_or_its_architecture(tmp_path):
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD  EPYC 9654\nflags\t\t: fpu\n")
    assert cpu_kind(info) == "AMD EPYC 9654, family 25, model 17"
    assert cpu_kind(tmp_path / "none") == platform.machine()
