"""docs/cluster.md: every command parses with the program it calls, and every YAML is what it says it is."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from sweeps.space.space import load_space

PAGE = (Path(__file__).parents[2] / "docs/cluster.md").read_text()
BLOCKS = re.findall(r"```(sh|yaml)\n(.*?)```", PAGE, re.S)
SHELL = [text for kind, text in BLOCKS if kind == "sh"]
SCRIPTS = [text for text in SHELL if text.startswith("#!")]
LINES = [line for text in SHELL if text not in SCRIPTS for line in text.splitlines() if line]
LINES += [line.rstrip(" &") for text in SCRIPTS for line in text.splitlines() if line.startswith("mouselift ")]
YAML = [yaml.safe_load(text) for kind, text in BLOCKS if kind == "yaml"]
CLUSTER = YAML[0]
STARTS = [*CLUSTER["head_start_ray_commands"], *CLUSTER["worker_start_ray_commands"]]


def parse(command: Any, words: list[str]) -> None:
    """Find the subcommand and parse its options, without running it. Typer's commands are not click's any more."""
    context = command.context_class(command, info_name="it")
    while hasattr(command, "resolve_command"):
        _, command, words = command.resolve_command(context, words)
        context = command.context_class(command, parent=context)
    command.make_parser(context).parse_args(args=words)


def command_of(program: str) -> Any:
    if program == "ray":
        from ray.scripts.scripts import cli

        return cli
    if program == "mlflow":
        from mlflow.cli import cli as mlflow

        return mlflow
    import mouselift

    return typer.main.get_command(mouselift.app)


@pytest.mark.parametrize("text", [*SHELL, *STARTS])
def test_the_shell_can_read_it(text) -> None:
    done = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line", [*LINES, *STARTS])
def test_the_program_knows_the_command_and_its_options(line) -> None:
    words = shlex.split(re.sub(r"\$\([^)]*\)", "80", line))
    words = words[next(i for i, word in enumerate(words) if "=" not in word or word.startswith("-")) :]
    match words[0]:
        case "ray" | "mlflow" | "mouselift":
            parse(command_of(words[0]), words[1:])
        case "torchrun":
            from torch.distributed.run import parse_args

            launched = parse_args(words[1:])
            assert launched.module and launched.training_script == "mouselift"
            parse(command_of("mouselift"), launched.training_script_args)
        case "export":
            assert re.fullmatch(r"(RAY|MLFLOW|MOUSELIFT)_[A-Z_]+=\S+", words[1])
        case other:
            assert other in ("createdb", ".")


@pytest.mark.parametrize("line", ["mlflow server --nope", "ray start --nope", "mouselift sweep run lr.yaml --nope"])
def test_an_option_that_is_none_would_be_seen(line) -> None:
    program, *words = line.split()
    with pytest.raises(Exception, match=r"No such option.*--nope"):
        parse(command_of(program), words)


def test_the_cluster_file_is_one_for_ray() -> None:
    from ray._private.label_utils import parse_node_labels_string
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(dict(CLUSTER)))
    assert parse_node_labels_string("gpu_memory_gb=80") == {"gpu_memory_gb": "80"}


def test_the_label_is_the_smallest_gpus_memory_in_gb(tmp_path) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81559\necho 24564\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    text = re.search(r"--labels=(\".*\")", STARTS[-1])[1]
    done = subprocess.run(
        ["bash", "-c", f"PATH={tmp_path}:$PATH; echo {text}"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "gpu_memory_gb=26\n"


@pytest.mark.parametrize("trials", YAML[1:])
def test_the_spaces_on_the_page_load(trials, tmp_path) -> None:
    path = tmp_path / "lr.yaml"
    space = {"recipe": "gslrm_mouse", "space": {"optim.lr": {"float": [1e-6, 1e-4]}}} | trials
    path.write_text(yaml.safe_dump(space))
    assert load_space(path).trials.count > 1


(JOB,) = SCRIPTS
STAND_IN = """#!/bin/sh
echo "$$ $*" >> calls
trap 'echo KILLED >> calls; exit 1' USR1 TERM
[ -n "$SLURM_RESTART_COUNT" ] || while :; do sleep 0.05; done
"""


def batch(folder: Path, **environment: str) -> subprocess.Popen[bytes]:
    """The job of the page as Slurm starts it: a batch shell in a session of its own; `mouselift` waits for a signal."""
    for name, text in {"mouselift": STAND_IN, "scontrol": '#!/bin/sh\necho "scontrol $*" >> calls\n'}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    (folder / "team.env").touch()
    (folder / "sweep.sh").write_text(JOB)
    known = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"} | environment
    return subprocess.Popen(["bash", "sweep.sh"], cwd=folder, env=known, start_new_session=True)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.parametrize(("number", "queued"), [(signal.SIGUSR1, ["scontrol requeue 7"]), (signal.SIGTERM, [])])
def test_the_job_passes_slurms_signal_on_and_is_queued_again_where_its_time_was_up(tmp_path, number, queued) -> None:
    job = batch(tmp_path)
    while not calls(tmp_path):
        time.sleep(0.02)
    time.sleep(0.2)  # for the stand-in to set its traps
    job.send_signal(number)  # as --signal=B: does, to the batch shell alone
    assert job.wait(30) == 1
    begun, *rest = calls(tmp_path)
    assert begun.endswith(" sweep run lr.yaml --data /data/mice --name lr-7 --resume")
    assert rest == ["KILLED", *queued]


def test_the_job_that_is_queued_again_says_the_same_and_ends_with_the_sweep(tmp_path) -> None:
    assert batch(tmp_path, SLURM_RESTART_COUNT="1").wait(30) == 0
    (line,) = calls(tmp_path)
    assert line.endswith(" sweep run lr.yaml --data /data/mice --name lr-7 --resume")
