"""What happened: the journal, the ledger that it adds up to, and what is derived from them for others to read."""

import os

from pipeline.machine import account

account.settle()  # MLflow asks for the user's home when it is imported
# MLflow reads some of these when it is imported. They stand here because Python runs this before any module of the
# room, whatever that imports first. What the user has set stays.
_OF_MLFLOW = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
for _name, _value in _OF_MLFLOW.items():
    os.environ.setdefault(_name, _value)
