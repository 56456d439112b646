"""Checkpoints in S3, spoken by a real server: a trial goes on from there, and outlives a server that falls silent."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from sweeps.book.journal import AttemptFailed, Journal, TrialOpened
from tests.e2e.faults.servers import free_port

boto3 = pytest.importorskip("boto3", reason="needs boto3, of the extra `dev`")
pytest.importorskip("moto.server", reason="needs moto, of the extra `dev`")
pytestmark = pytest.mark.faults
KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


class S3:
    """moto's server in a process of its own, with one bucket."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"http://127.0.0.1:{port}"
        words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        quiet = subprocess.DEVNULL
        self.process = subprocess.Popen(words, stdout=quiet, stderr=quiet, start_new_session=True)
        key = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=self.address, **key)
        until = time.monotonic() + 60
        while not self._has_bucket():
            assert time.monotonic() < until, "S3 does not start"
            time.sleep(0.3)

    @property
    def environment(self) -> dict[str, str]:
        return KEYS | {"AWS_ENDPOINT_URL": self.address, "MOUSELIFT_CHECKPOINTS": "s3://sweeps/team"}

    def names(self) -> list[str]:
        return [found["Key"] for found in self.client.list_objects_v2(Bucket="sweeps").get("Contents", [])]

    def _has_bucket(self) -> bool:
        with contextlib.suppress(Exception):
            self.client.create_bucket(Bucket="sweeps")
            return True
        return False


@pytest.fixture
def s3() -> Iterator[S3]:
    made = S3()
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()


def test_a_killed_worker_goes_on_from_s3(bench, note, s3):
    hurt = bench(s3.environment, trials={"count": 1, "concurrent": 1})
    hurt.start()
    hurt.until(lambda: any(name.endswith("/checkpoint.json") for name in s3.names()), "a checkpoint is in S3")
    hurt.until_reports(1)
    for worker in hurt.workers():
        worker.kill()
    assert hurt.finish() == 0, hurt.said
    opened = [event for _, event in Journal(hurt.seat.home.journal("hurt")).events() if isinstance(event, TrialOpened)]
    assert [event.attempt for event in opened] == [1, 2]
    assert resumed_from(hurt), "the second attempt began anew"
    note("checkpoints in S3: `kill -9` of a worker", hurt.check(), "goes on from the checkpoint in S3")


def test_s3_falls_silent_for_a_while(bench, note, s3):
    hurt = bench(s3.environment, trials={"count": 1, "concurrent": 1})
    hurt.start()
    hurt.until_reports(3)
    s3.process.send_signal(signal.SIGSTOP)
    time.sleep(20)
    s3.process.send_signal(signal.SIGCONT)
    assert hurt.finish() == 0, hurt.said
    events = [event for _, event in Journal(hurt.seat.home.journal("hurt")).events()]
    assert not any(isinstance(event, AttemptFailed) for event in events)
    note("S3 silent for 20 s", hurt.check(), "the trial waits and goes on in the same attempt")


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(bench, s3):
    hurt = bench(s3.environment | {"MOUSELIFT_CHECKPOINTS": "s3://nobody/team"}, trials={"count": 1, "concurrent": 1})
    hurt.start()
    assert hurt.finish() == 2
    assert hurt.said.strip().splitlines()[-1] == (
        "mouselift: MOUSELIFT_CHECKPOINTS: expected a store that takes writes at s3://nobody/team, got NO_SUCH_BUCKET "
        "during CreateMultipartUpload operation: The specified bucket does not exist — start it, or correct its bucket "
        "or keys."
    )
    assert not hurt.seat.home.root.exists()


def resumed_from(hurt) -> list[str]:
    tags = [report.tags for report in hurt.seat.reports("hurt")]
    return [found["trial.resumed_from"] for found in tags if "trial.resumed_from" in found]
