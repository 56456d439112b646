"""What a drain says of itself when its thread breaks."""

from __future__ import annotations

import time

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from sqlalchemy.exc import OperationalError

from sweeps.book.delivery import DELIVERED, Delivery, RefusedError, UnansweredError, delivered
from sweeps.book.journal import Journal, SweepClosed
from sweeps.book.ledger import fold_all
from sweeps.tracking.mlflow_client import delivery_errors


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_broke_the_thread_has_not_arrived(tmp_path):
    def connect():
        raise ZeroDivisionError

    with Journal(tmp_path) as journal:
        journal.append(SweepClosed("COMPLETE"))
        assert not Delivery(journal, "nobody", connect).start().close(10)


def test_a_slow_receiver_has_the_time_that_one_that_is_away_has_not(tmp_path):
    def slow():
        def send(ledger, news):
            time.sleep(1.0)
            return fold_all(ledger, news)

        return send

    def away():
        raise UnansweredError("no route to host")

    with Journal(tmp_path) as journal:
        journal.append(SweepClosed("COMPLETE"))
        began = time.monotonic()
        assert not Delivery(journal, "one that is away", away, file="away.json").start().close(30, patience=0.2)
        assert time.monotonic() - began < 10
        assert Delivery(journal, "a slow one", slow, file="slow.json").start().close(30, patience=0.2)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OperationalError("SELECT 1", {}, Exception("no route to host")), UnansweredError),
        (MlflowException("QueuePool limit of size 5 overflow 10 reached", BAD_REQUEST), UnansweredError),
        (MlflowException("no such metric", BAD_REQUEST), RefusedError),
    ],
)
def test_a_database_that_is_away_or_busy_is_asked_again(error, kind):
    with pytest.raises(UnansweredError) as caught, delivery_errors():
        raise error
    assert type(caught.value) is kind


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"offset": null}', b"\xff"])
def test_a_damaged_note_of_what_was_delivered_means_that_all_is_sent_again(tmp_path, content) -> None:
    (tmp_path / DELIVERED).write_bytes(content)
    assert delivered(Journal(tmp_path)) == 0
