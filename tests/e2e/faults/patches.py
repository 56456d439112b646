"""Faults that nobody can cause from outside: code that runs in a trial's worker, or in the driver, and nowhere else.

A `sitecustomize.py` on PYTHONPATH waits until a module of ours has been imported and then changes it. Ray's workers
inherit the path from the driver; the dry run of preflight, which trains, too, is left alone.
"""

from __future__ import annotations

import os
import textwrap
from pathlib import Path

WORKER, DRIVER = "default_worker.py", "mouselift"
_HOOK = '''
import importlib.abc, importlib.util, os, pathlib, sys, time

HERE = pathlib.Path(__file__).parent


def once(name):
    """Whether this is the first to ask, of all processes."""
    try:
        os.close(os.open(HERE / name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def hurt():
{code}


class _After(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != {module!r}:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        run = spec.loader.exec_module
        spec.loader.exec_module = lambda module: (run(module), hurt())
        return spec


if any(word.endswith({who!r}) for word in sys.orig_argv):
    sys.meta_path.insert(0, _After())
'''
AT_STEP = """
from pipeline.training import saving, trainer
saving.Reports.ready = saving.Reports.rest  # what is said of a step is heard before the next begins
step_ = trainer.Trainer.step
def step(self, number):
    {code}
    step_(self, number)
trainer.Trainer.step = step
"""


def patched(folder: Path, code: str, who: str = WORKER, module: str = "") -> dict[str, str]:
    """The environment of a seat in whose workers (or driver) `code` runs once everything, or `module`, is imported."""
    folder.mkdir(exist_ok=True)
    module = module or ("sweeps.run.trial" if who == WORKER else "sweeps.run.tune")
    body = textwrap.indent(textwrap.dedent(code).strip("\n"), "    ")
    (folder / "sitecustomize.py").write_text(_HOOK.format(code=body, module=module, who=who))
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def patched_both(folder: Path, worker: str, driver: str) -> dict[str, str]:
    """The environment in whose workers `worker` runs, and in whose driver `driver`, once everything is imported."""
    texts = []
    for who, code in ((WORKER, worker), (DRIVER, driver)):
        patched(folder, code, who)
        texts.append((folder / "sitecustomize.py").read_text())
    runs = "".join(f"exec({text!r}, {{'__file__': __file__, '__name__': 'patch'}})\n" for text in texts)
    (folder / "sitecustomize.py").write_text(runs)
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)}


def at_step(folder: Path, code: str) -> dict[str, str]:
    """`code` before each optimizer step of a worker; it knows `number`, the step, and `self`, the trainer."""
    body = textwrap.indent(textwrap.dedent(code).strip("\n"), "    ").lstrip()
    return patched(folder, AT_STEP.format(code=body))


def hold_at(step: int) -> str:
    """For `at_step`: whichever trial comes there first waits, until a file `go-on-13` lies beside `held-13`."""
    return f"""
if number == {step} and once("held-{step}"):
    while not (HERE / "go-on-{step}").exists():
        time.sleep(0.05)
"""
