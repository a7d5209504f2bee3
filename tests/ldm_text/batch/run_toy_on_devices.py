"""Run a toy job in several processes.

Usage: run_toy_on_devices.py PROMPTS OUTPUT DEVICES SECONDS_A_BATCH
"""

import sys

from ldm_text.batch.predict import run_job_on_devices
from tests.ldm_text.batch.toy_work import ToyWork, options_for

if __name__ == "__main__":
    prompts, output, devices, seconds = sys.argv[1:]
    work = ToyWork(num_samples=3, seconds_a_batch=float(seconds))
    options = options_for(prompts, output, on_error="reject")
    report = run_job_on_devices(work, options, int(devices))
    if report is not None:
        sys.stdout.write(f"{report.num_records} behind {report.num_earlier_records}\n")
        sys.exit(report.exit_code)
