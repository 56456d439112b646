"""What Ray does to the process that starts it, and what is put right."""

import subprocess

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
