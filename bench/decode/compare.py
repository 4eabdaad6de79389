"""Decodes one frame per second of the same clips with this decoder and its peers: one run, interleaved rounds, medians.

    compare.py --ours BINARY --clips DIR --out DIR [--rounds N] [--only CLIP ...]

With --only, the results of the other clips are kept from the last run in DIR/decode.json.

Contract: frame k is the one that a player shows at k seconds, the last frame with pts <= k, as RGB at its native size; a
frame that stays is given once. A contestant with other frame times is reported and not counted. Each uses one thread and a separate process. The clock starts after the imports, so the start
of Python is not measured. The table has ratios of wall times and of CPU seconds (user and system of the timed part),
because a busy machine changes only the wall times.
"""

import argparse, json, os, platform, resource, statistics, subprocess, sys, time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import cpu  # bench/machine.py

PEERS = ["ffmpeg_fps", "pyav", "decord", "torchcodec"]
GOALS = {"gop250": (1.7, 1.7), "gop60": (1.6, 2.5), "gop30": (1.5, 6.0)}  # against the fastest peer, against fps=1


def targets(times):
    """Returns the indices of the frames that the contract selects, each once, given all pts."""
    end = times[-1] + statistics.median(b - a for a, b in zip(times, times[1:])) if len(times) > 1 else times[-1]
    found, k = [], 0
    for i, time in enumerate(times):
        until = (times[i + 1] if i + 1 < len(times) else end) - times[0]
        if k < until - 1e-9:
            found.append(i)
        while k < until - 1e-9:
            k += 1
    return found or [0]


def packet_times(path):
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        return sorted(float(p.pts * stream.time_base) for p in container.demux(stream) if p.pts is not None)


def ffmpeg_fps(path):
    """Runs the fps filter of the command line. With `round=up` it keeps the last frame before each moment. Its output has no
    source times and repeats frames, so only the number of moments is compared, not the frames themselves."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-threads", "1", "-filter_threads", "1", "-i", path,
               "-vf", "fps=1:round=up", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    size, n = 1280 * 720 * 3, 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, bufsize=size) as process:
        while len(process.stdout.read(size)) == size:
            n += 1
    return [float(k) for k in range(n)], "count"


def pyav(path):
    """Reads a packet index, then decodes each target from the current position or from its key frame."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        packets = [(p.pts, p.is_keyframe) for p in container.demux(stream) if p.pts is not None]
        pts = sorted(p for p, _ in packets)
        keys = sorted(p for p, key in packets if key)
        base = stream.time_base
        wanted = [pts[i] for i in targets([float(p * base) for p in pts])]
    times = []
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.thread_count = 1
        decoder, at = None, None
        for target in wanted:
            key = max(p for p in keys if p <= target)
            if at is None or key > at:
                container.seek(key, stream=stream)
                decoder = container.decode(stream)
            for frame in decoder:
                at = frame.pts
                if frame.pts >= target:
                    frame.to_ndarray(format="rgb24")
                    times.append(float((frame.pts - pts[0]) * base))
                    break
    return times, "times"


def decord(path):
    import decord as d

    reader = d.VideoReader(path, ctx=d.cpu(0), num_threads=1)
    times = reader.get_frame_timestamp(range(len(reader)))[:, 0].tolist()
    wanted = targets(times)
    found = []
    for index in wanted:  # singly: get_batch holds all frames in memory and is not faster
        reader[index].asnumpy()
        found.append(times[index] - times[0])
    return found, "times"


def torchcodec(path):
    import torch
    from torchcodec.decoders import VideoDecoder

    torch.set_num_threads(1)
    decoder = VideoDecoder(path, num_ffmpeg_threads=1, dimension_order="NHWC", seek_mode="exact")
    begin, end = decoder.metadata.begin_stream_seconds, decoder.metadata.end_stream_seconds
    moments = [begin + k for k in range(int(end - begin) + 1) if begin + k < end - 1e-9]
    times = []
    for start in range(0, len(moments), 16):  # batches limit the memory, as in this decoder
        batch = decoder.get_frames_played_at(moments[start:start + 16])
        times.extend(time - begin for time in batch.pts_seconds.tolist())
    return sorted(set(times)), "times"


def one(name, path):
    """Runs one contestant in a child process. The clock starts after the imports."""
    if name == "pyav":
        import av  # noqa: F401
    elif name == "decord":
        import decord as d  # noqa: F401
    elif name == "torchcodec":
        import torchcodec.decoders  # noqa: F401

    def cpu():
        return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before, start = cpu(), time.perf_counter()
    times, kind = globals()[name](path)
    wall = time.perf_counter() - start
    print(json.dumps({"wall": wall, "cpu": cpu() - before, "times": times, "kind": kind}))


def ours(binary, path):
    out = subprocess.run([binary, path], capture_output=True, check=True, text=True).stdout
    return {**json.loads(out), "kind": "times"}


def same(expected, result):
    if result["kind"] == "count":
        # The filter rounds the end of the clip up.
        return abs(len(result["times"]) - int(expected[-1]) - 1) <= 1
    return len(expected) == len(result["times"]) and all(abs(a - b) < 1e-4 for a, b in zip(expected, result["times"]))


def versions():
    import av
    import decord as d
    import torch
    import torchcodec

    first = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    libraries = {name: ".".join(map(str, v)) for name, v in av.library_versions.items() if name == "libavcodec"}
    return {"ffmpeg": first, "pyav": f"{av.__version__} ({libraries})", "decord": d.__version__,
            "torchcodec": torchcodec.__version__, "torch": torch.__version__, "python": platform.python_version()}


def compare(arguments):
    table = {}
    names = arguments.only or sorted(f[:-4] for f in os.listdir(arguments.clips) if f.endswith(".mp4"))
    for clip in names:
        path = os.path.join(arguments.clips, clip + ".mp4")
        all_times = packet_times(path)
        expected = [all_times[i] - all_times[0] for i in targets(all_times)]
        rows = {name: [] for name in ["ours", *PEERS]}
        notes = {}
        for _ in range(arguments.rounds):
            for name in rows:
                if name == "ours":
                    result = ours(arguments.ours, path)
                    table.setdefault(clip, {})["decoded"] = [result["decoded"], result["skipped"]]
                else:
                    command = [sys.executable, __file__, "--one", name, path]
                    child = subprocess.run(command, capture_output=True, text=True)
                    if child.returncode:
                        notes[name] = "failed: " + child.stderr.strip().splitlines()[-1][:120]
                        continue
                    result = json.loads(child.stdout.splitlines()[-1])
                if not same(expected, result):
                    notes[name] = "other frames"
                rows[name].append((result["wall"], result["cpu"]))
            print(clip, {n: f"{r[-1][0]:.2f}/{r[-1][1]:.2f}" for n, r in rows.items() if r}, notes, file=sys.stderr)
        table[clip].update(notes=notes, rows=rows, rounds=arguments.rounds, load=os.getloadavg()[0])
    return table


def summarise(table):
    """Computes medians, and ratios as the median over rounds of (peer / ours in the same round)."""
    lines = ["| clip | decoded of packets | contestant | wall s | CPU s | wall ratio | CPU ratio | note |",
             "|---|---|---|---|---|---|---|---|"]
    verdicts = []
    for clip, entry in table.items():
        mine = entry["rows"]["ours"]
        decoded, skipped = entry["decoded"]
        ratios = {}
        for name, runs in entry["rows"].items():
            if not runs:
                lines.append(f"| {clip} | | {name} | - | - | - | - | {entry['notes'].get(name, '')} |")
                continue
            wall, cpu = (statistics.median(run[i] for run in runs) for i in (0, 1))
            ratio = [statistics.median(t[i] / m[i] for t, m in zip(runs, mine)) for i in (0, 1)]
            ratios[name] = ratio
            head = f"{decoded} of {decoded + skipped}" if name == "ours" else ""
            note = entry["notes"].get(name, "")
            lines.append(f"| {clip} | {head} | {name} | {wall:.3f} | {cpu:.3f} | {ratio[0]:.2f} | {ratio[1]:.2f} | {note} |")
        entry["ratios"] = ratios
        fair = {n: r for n, r in ratios.items() if n != "ours" and n not in entry["notes"]}
        if clip in GOALS and fair:
            for which, index in (("wall", 0), ("CPU", 1)):
                fastest = min(fair, key=lambda n: fair[n][index])
                for goal, against in zip(GOALS[clip], (fastest, "ffmpeg_fps")):
                    if against in fair:
                        got = fair[against][index]
                        verdict = "reached" if got >= goal else "MISSED"
                        verdicts.append(f"| {clip} | {against} | {which} | {goal} | {got:.2f} | {verdict} |")
    goals = ["| clip | against | by | goal | found | |", "|---|---|---|---|---|---|", *verdicts]
    return "\n".join(goals), "\n".join(lines)


def main():
    if sys.argv[1:2] == ["--one"]:
        return one(sys.argv[2], sys.argv[3])
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--ours", "--clips", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=[])
    arguments = parser.parse_args()
    os.makedirs(arguments.out, exist_ok=True)
    earlier, about = os.path.join(arguments.out, "decode.json"), versions()
    table = {}
    if arguments.only and os.path.exists(earlier):
        with open(earlier) as kept:
            table = json.load(kept)["clips"]
    table.update(compare(arguments))
    goals, rows = summarise(table)
    loads = "; ".join(f"{clip}: {entry['rounds']} rounds, load {entry['load']:.1f}" for clip, entry in table.items())
    with open(os.path.join(arguments.out, "decode.json"), "w") as out:
        json.dump({"versions": about, "clips": table}, out, indent=1)
    with open(os.path.join(arguments.out, "decode.md"), "w") as out:
        out.write(f"# One frame per second, 120 s of 720p H.264, one thread\n\nMade by `bench/decode/run.sh`. "
                  f"Interleaved rounds; medians; ratios are theirs / ours within a round, so more is better for us. "
                  f"CPU seconds tell more than wall seconds when the load average is above the number of CPUs.\n"
                  f"{cpu()}. Rounds and load average: {loads}.\n"
                  f"Versions: {', '.join(f'{k} {v}' for k, v in about.items())}.\n\n## Goals\n{goals}\n\n## All\n{rows}\n")
    print(goals)


if __name__ == "__main__":
    main()
