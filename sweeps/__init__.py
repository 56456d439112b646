"""The memory: runs recipes many times, chooses the next one, writes down what happened, keeps the champions."""

import gc
import os

# MLflow and Ray read some of these when they are imported, so they stand here; what the user has set stays.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",  # at SIGTERM it prints a stack and aborts
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

# Imports make half a million objects that stay, and looking through them on the way takes a third of their time: of a
# command's, and of that of every process it starts.
gc.set_threshold(100_000, 20, 20)
