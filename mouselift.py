"""The front door: one `mouselift` command that mounts the commands of the three packages."""

from __future__ import annotations

import gc
import logging
import sys

import typer

import dashboards.cli
import pipeline.cli
import sweeps.cli
from pipeline.errors import PipelineError
from sweeps.errors import NoRoomError, OutageError, SweepError
from sweeps.own_process import Interrupted, end_undisturbed, heed, interrupt, set_up

EXIT_OURS, EXIT_USER = 1, 2

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Photos of mice to 3D Gaussians: train, sweep, compare, promote, pull.",
)
for package in (pipeline.cli, sweeps.cli, dashboards.cli):
    package.mount(app)


def main() -> None:
    """Run the command line. Mistakes of the user are one line on the standard error and exit code 2."""
    set_up()
    heed(interrupt)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for answered_for in ("urllib3.connectionpool", "mlflow.store.db.utils"):  # the tracker says what is not answered
        logging.getLogger(answered_for).setLevel(logging.CRITICAL)
    try:
        app()
    except (PipelineError, SweepError) as error:
        sys.stderr.write(f"mouselift: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_OURS if isinstance(error, NoRoomError | OutageError) else EXIT_USER)
    except Interrupted as error:
        sys.stderr.write(f"mouselift: {error}\n")
        sys.exit(error.exit_code)
    finally:
        end_undisturbed()
        if "triton" not in sys.modules:  # whose bindings call what is still there at the exit leaks
            gc.freeze()  # or the exit looks through all of them again, for a second


if __name__ == "__main__":
    main()
