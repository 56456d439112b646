"""Launching a sweep from Python: a start that the registry knows by name, and what is refused without a trial."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from sweeps import Home, resume_sweep, run_sweep, sweep_status
from sweeps.errors import StudyError
from sweeps.launch import with_registered_start
from sweeps.registry import registry
from tests.support.spaces import space_with


class FakeRegistry:
    def __init__(self, home):
        pass

    def resolve(self, source):
        return SimpleNamespace(ref=source.replace("@champion", "/3"))

    def pull(self, ref, folder):
        return folder


@pytest.fixture
def home(monkeypatch, tmp_path):
    monkeypatch.setattr(registry, "Registry", FakeRegistry)
    return Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})


@pytest.mark.parametrize("version", ["mice@champion", "mice/3"])
def test_a_registered_start_is_the_folder_that_it_is_pulled_to(home, version):
    space = space_with(name="mine", recipe="gslrm_tiny", fixed={"train.init_from": version})
    started = with_registered_start(space, home)
    assert started.fixed["train.init_from"] == started.base.train.init_from == str(home.root / "models" / "mice/3")


@pytest.mark.parametrize("fixed", [{}, {"train.init_from": "folder"}, {"train.init_from": "./runs/3"}])
def test_any_other_start_stays(fixed, home):
    space = space_with(name="mine", recipe="gslrm_tiny", fixed=fixed)
    assert with_registered_start(space, home) is space


@pytest.mark.parametrize("ask", [resume_sweep, sweep_status])
def test_a_sweep_that_is_not_there_is_refused_as_on_the_command_line(ask, home):
    with pytest.raises(StudyError, match="unknown: expected a sweep of "):
        ask("unknown", home=home)


def test_data_that_is_not_there_is_refused_in_another_thread_too(home, tmp_path):
    space = space_with(name="mine", recipe="gslrm_tiny")
    with ThreadPoolExecutor(1) as pool, pytest.raises(Exception, match="expected a file or folder, found none"):
        pool.submit(run_sweep, space, "mine", tmp_path / "nowhere", home).result()
