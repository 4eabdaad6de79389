"""Runs a command and prints its wall time and the largest anonymous memory of it and its children, in decimal gigabytes.

    peak.py COMMAND...
"""

import subprocess
import sys
import time
from pathlib import Path


def anonymous(pid, parent=None):
    """Bytes of anonymous memory of a process and its children. A child that is still a copy of its parent, before it runs a program, has no memory of
    its own."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    if command == parent:
        return 0
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon")), 0)
    return own + sum(anonymous(child, command) for child in children)


def main():
    start = time.monotonic()
    process = subprocess.Popen(sys.argv[1:])
    peak = 0
    while process.poll() is None:
        peak = max(peak, anonymous(process.pid))
        time.sleep(0.05)
    print(f"{time.monotonic() - start:.0f} s, peak {peak / 1e9:.2f} GB anonymous memory", file=sys.stderr)
    sys.exit(process.returncode)


if __name__ == "__main__":
    main()
