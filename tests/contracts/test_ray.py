"""What Ray does to the process that starts it, and what is put right."""

import gc
import subprocess
import sys

import pytest
import ray

from sweeps.home import Home
from sweeps.run.ray_session import Ray


def test_exit_codes_of_children_are_known_while_ray_runs_and_after_it(tmp_path) -> None:
    with Ray(Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})) as ray:
        assert ray.ready().lost == ""
        assert subprocess.run(["false"], check=False).returncode == 1
    assert subprocess.run(["false"], check=False).returncode == 1


def test_exit_codes_of_children_are_known_after_a_ray_that_nobody_asked_for(tmp_path) -> None:
    with Ray(Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})):
        pass
    assert subprocess.run(["false"], check=False).returncode == 1


def garbage_threshold() -> int:
    import sweeps.run.trial  # noqa: F401 — what a worker imports for a trial

    return gc.get_threshold()[0]


@pytest.fixture
def _as_a_script_has_it():
    """Whatever commands ran in this process before."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_as_a_script_has_it")
def test_a_worker_looks_for_garbage_seldom_and_the_process_that_started_it_as_it_did(tmp_path) -> None:
    with Ray(Home.from_environment({"MOUSELIFT_HOME": str(tmp_path)})) as session:
        session.ready()
        assert ray.get(ray.remote(garbage_threshold).remote()) == 100_000
        assert gc.get_threshold()[0] == 700


def test_a_worker_comes_up_where_the_path_of_python_has_spaces_and_quotes(tmp_path) -> None:
    environment = tmp_path / "a b's 100%" / "venv"
    environment.parent.mkdir()
    environment.symlink_to(sys.prefix)
    python = environment / "bin" / "python"
    script = (
        "import sys, ray\n"
        "from sweeps.home import Home\n"
        "from sweeps.run.ray_session import Ray\n"
        f"with Ray(Home.from_environment({{'MOUSELIFT_HOME': {str(tmp_path)!r}}})) as session:\n"
        "    session.ready()\n"
        "    asked = ray.remote(lambda: sys.executable).options(runtime_env={'env_vars': {'A': '1'}})  # as Tune does\n"
        "    print(ray.get(asked.remote(), timeout=60))\n"
    )
    done = subprocess.run([python, "-c", script], check=False, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, str(python)), done.stderr
