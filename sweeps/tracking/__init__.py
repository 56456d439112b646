"""What MLflow shows: the only writer of its runs, the layout of these, and questions that are asked of it.

Python runs this before any module of the room: MLflow reads some of these variables when it is imported. What the user
has set stays.
"""

import os

from pipeline.machine import account

account.settle()  # MLflow asks for the user's home when it is imported
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
