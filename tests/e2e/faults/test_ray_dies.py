"""Ray itself dies under a sweep: its raylet, or the server that keeps its books."""

from __future__ import annotations

import signal
import time

import psutil
import pytest

from tests.e2e.faults.patches import at_step, hold_at

pytestmark = pytest.mark.faults
SECONDS_TO_END = 60.0  # from the death of Ray to that of the driver, on a busy machine
STEPS = {"train.max_steps": 24, "train.validate_every": 8}


@pytest.mark.parametrize("word", ["raylet", "gcs_server"])
def test_kill_9_of_a_process_of_ray(bench, note, tmp_path, word):
    hurt = bench(at_step(tmp_path / "patch", hold_at(13)), trials={"count": 1, "concurrent": 1}, fixed=STEPS)
    hurt.start()
    hurt.until((tmp_path / "patch" / "held-13").exists, "a trial is at its step 13")
    started = hurt.children()
    [process] = [process for process in started if process.name() == word]
    process.send_signal(signal.SIGKILL)
    since = time.monotonic()
    code = hurt.finish()
    seconds = time.monotonic() - since
    assert (code, "Traceback" in hurt.said) == (1, False), hurt.said
    assert seconds < SECONDS_TO_END, hurt.said
    died = f"Ray died: its {word} ended — `mouselift sweep resume hurt` goes on with it"
    assert f"sweep FAIL: {died}\n" in hurt.said
    assert psutil.wait_procs(started, 20)[1] == []
    assert hurt.check(ended=False).wrong == []
    hurt.resume()
    assert hurt.finish() == 0, hurt.said
    assert hurt.seat.ledger("hurt").trials[0].attempt == 2
    note(f"`kill -9` of Ray's {word}", hurt.check(), f"the driver ends within {SECONDS_TO_END:.0f} s; resumed")
