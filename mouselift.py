"""The front door: one `mouselift` command that mounts the commands of the three packages."""

from __future__ import annotations

import contextlib
import errno
import gc
import logging
import os
import re
import sys
from typing import Annotated

import typer

import dashboards.cli
import pipeline.cli
import sweeps.cli
from pipeline.errors import PipelineError
from pipeline.machine import account, outputs
from pipeline.machine.version import VERSION
from sweeps.errors import DamagedError, NoRoomError, OutageError, SweepError
from sweeps.own_process import Interrupted, ignore_signals, interrupt, interruption_in, set_handler, set_up

EXIT_OURS, EXIT_USER = 1, 2

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Photos of mice to 3D Gaussians: train, sweep, compare, promote, pull.",
)


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"mouselift {VERSION}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    """Photos of mice to 3D Gaussians: train, sweep, compare, promote, pull."""


for package in (pipeline.cli, sweeps.cli, dashboards.cli):
    package.mount(app)


def main() -> None:
    """Run the command line. Mistakes of the user are one line on the standard error and exit code 2."""
    account.speak_utf8()
    set_up()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for answered_for in ("urllib3.connectionpool", "mlflow.store.db.utils"):  # the tracker says what is not answered
        logging.getLogger(answered_for).setLevel(logging.CRITICAL)
    try:
        set_handler(interrupt)
        _require_working_folder()
        account.settle()
        # Science and memory may not import the windows: what makes pages is handed to the commands.
        app(args=list(map(_with_home, sys.argv[1:])), obj=dashboards.cli.Windows())
    except (PipelineError, SweepError) as error:
        _say(str(error))
        sys.exit(EXIT_OURS if isinstance(error, DamagedError | NoRoomError | OutageError) else EXIT_USER)
    except OSError as error:
        if error.filename is not None and error.errno in outputs.REFUSALS:
            _say(outputs.told(error))
            sys.exit(EXIT_USER)
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "a file or the standard output"  # the system does not say which
        _say(f"{where}: expected room to write to, got a full disk — free some and run the command again.")
        _drop_what_is_not_taken()
        sys.exit(EXIT_OURS)
    except (Interrupted, SystemError) as error:
        interrupted = interruption_in(error)
        if interrupted is None:
            raise
        _say(str(interrupted))
        sys.exit(interrupted.exit_code)
    finally:
        ignore_signals()
        if "triton" not in sys.modules:  # whose bindings call what is still there at the exit leaks
            gc.freeze()  # or the exit looks through all of them again, for a second


def _say(problem: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it; the exit code still tells
        sys.stderr.write(f"mouselift: {' '.join(problem.split())}\n")
        sys.stderr.flush()


def _drop_what_is_not_taken() -> None:
    """Of what was said on the standard output: Python would try again at its end, and fail."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_home(word: str) -> str:
    """A word of the command line with its `~/` written out. Shells leave it as it is behind `--out=` or in quotes."""
    return re.sub(r"^([^/=]*=)?~/", lambda begin: (begin[1] or "") + os.path.expanduser("~/"), word)


def _require_working_folder() -> None:
    """Every relative path begins at the working folder. Raises PipelineError."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise PipelineError("the working folder: expected one, got a deleted one — `cd` to another.") from None


if __name__ == "__main__":
    main()
