from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="NOT TESTED: the batch policy is Linux's")
def test_yield_to_computation_puts_the_process_and_its_later_threads_under_the_batch_policy() -> None:
    code = (
        "import os, threading\n"
        "from lightship.serving.scheduling import yield_to_computation\n"
        "yield_to_computation()\n"
        "found = [os.sched_getscheduler(0)]\n"
        "thread = threading.Thread(target=lambda: found.append(os.sched_getscheduler(0)))\n"
        "thread.start(); thread.join()\n"
        "print(found == [os.SCHED_BATCH] * 2)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert result.stdout.strip() == "True"
