"""Results of bench-service, one JSON object per line -> a table of medians."""

import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import cpu  # bench/machine.py

runs = {}
for line in sys.stdin:
    run = json.loads(line)
    name = f"{run['queue']}, {run['database']}, {run['store']}"
    runs.setdefault((name, run["slots"], run["items"]), []).append(run)

print("# Overhead of the job machinery per item\n")
print(
    "Made by `bench/service/run.sh`: one job whose items only write a report of 1500 bytes. The table names queue, database and "
    "store; servers are private instances on the same machine (RabbitMQ with a quorum queue, Postgres with fsync off, "
    f"SeaweedFS). Medians; {cpu()}, load average {os.getloadavg()[0]:.1f} at the end. The time is from the start of the worker "
    "to the end of the job, including listing, storing and sending the items. Goal with servers: at least 200 items/s, and "
    "less than 10 ms per item.\n"
)
print("| queue, database, store | in flight | items | rounds | items/s | ms per item | all rounds, items/s |")
print("|---|---|---|---|---|---|---|")
for (name, slots, items), group in runs.items():
    rates = [run["items_per_s"] for run in group]
    median = statistics.median(rates)
    spread = ", ".join(f"{rate:.0f}" for rate in rates)
    print(f"| {name} | {slots} | {items} | {len(group)} | {median:.0f} | {1000 / median:.2f} | {spread} |")
