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
from pipeline.machine import account, outputs
from sweeps.errors import NoRoomError, OutageError, SweepError
from sweeps.own_process import look_for_garbage_seldom

EXIT_OURS, EXIT_USER = 1, 2
EXIT_INTERRUPTED = 130

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
    look_for_garbage_seldom()
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
    for answered_for in ("urllib3.connectionpool", "mlflow.store.db.utils"):  # the tracker says what is not answered
        logging.getLogger(answered_for).setLevel(logging.CRITICAL)
    try:
        account.settle()
        app()
    except (PipelineError, SweepError) as error:
        sys.stderr.write(f"mouselift: {' '.join(str(error).split())}\n")
        sys.exit(EXIT_OURS if isinstance(error, NoRoomError | OutageError) else EXIT_USER)
    except OSError as error:
        if error.filename is None or error.errno not in outputs.REFUSALS:
            raise
        sys.stderr.write(f"mouselift: {outputs.told(error)}\n")
        sys.exit(EXIT_USER)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    finally:
        if "triton" not in sys.modules:  # whose bindings call what is still there at the exit leaks
            gc.freeze()  # or the exit looks through all of them again, for a second


if __name__ == "__main__":
    main()
