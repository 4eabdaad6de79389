"""Prints the time of the frame that is on the screen at each moment of a sampling, from a full decode by PyAV.

    oracle.py FILE fps RATE [START [END]]
    oracle.py FILE uniform N [START [END]]
"""

import json
import sys
from fractions import Fraction

import av

path, kind, value, *span = sys.argv[1:]
start = Fraction(span[0]) if span else Fraction(0)
with av.open(path) as container:
    stream = container.streams.video[0]
    tick = stream.time_base
    frames = {frame.pts: frame.duration for frame in container.decode(stream)}
zero = min(frames)
times = [(pts - zero) * tick for pts in sorted(frames)]
gaps = sorted(b - a for a, b in zip(times, times[1:]))
interval = gaps[len(gaps) // 2] if gaps else None
end = times[-1] + (frames[max(frames)] * tick or interval or 0)
end = min(end, Fraction(span[1])) if len(span) > 1 else end
moments = []
if start < end and kind == "fps":
    count = 0
    while start + count / Fraction(value) < end:
        moments.append(start + count / Fraction(value))
        count += 1
elif start < end:
    n, last = int(value), max(t for t in times if t < end)
    last = max(last, end - (interval or end - times[-1]))
    steps = range(n) if last > start else [0]
    moments = [start + (last - start) * i / max(n - 1, 1) for i in steps]
shown = [max(t for t in times if t <= moment + tick / 2) for moment in moments]
json.dump([float(time) for time in shown], sys.stdout)
