"""Clips from file to answer: wall time against the CPU time of all stages divided by the number of cores.

    clips.py --ours BINARY --out DIR [--clips N] [--rounds N] [ARGUMENT of `flamingo run` ...]

The clips of samples/spriteworld are repeated under other names. The cache of visual tokens is off, so each clip is decoded,
encoded and answered. CPU time includes the program and its decoders. A ratio of 1 means cores that never wait.
"""

import argparse, json, os, pathlib, resource, shutil, statistics, subprocess, sys, tempfile, time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import cpu  # bench/machine.py

ROOT = pathlib.Path(__file__).resolve().parents[2]


def one_round(binary, folder, clips, more):
    with tempfile.TemporaryDirectory(dir=folder) as place:
        job = {"schema": "flamingo.job/1", "job_id": "clips", "tasks": [{"kind": "caption"}]}
        job["input"] = {"prefix": {"url": str(clips), "glob": "*.mp4"}}
        pathlib.Path(place, "jobs.jsonl").write_text(json.dumps(job) + "\n")
        command = [binary, "run", "jobs.jsonl", "--model", ROOT / "models/flamingo-mini", "--set", "cache.memory=0", *more]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        done = subprocess.run(command, cwd=place, capture_output=True, text=True)
        wall, after = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
        if done.returncode:
            sys.exit(f"failed: {done.stderr[-2000:]}")
        reports = len(list(pathlib.Path(place, "results/clips/items").iterdir()))
        if reports != len(list(clips.iterdir())):
            sys.exit(f"{reports} reports")
        return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", required=True, type=os.path.abspath)
    parser.add_argument("--out", required=True)
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments, more = parser.parse_known_args()
    sources = sorted((ROOT / "samples/spriteworld").glob("*.mp4"))
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        clips = pathlib.Path(folder, "clips")
        clips.mkdir()
        for n in range(arguments.clips):
            shutil.copy(sources[n % len(sources)], clips / f"{n:04}.mp4")
        rounds = [one_round(arguments.ours, folder, clips, more) for _ in range(arguments.rounds)]
    ratios = [wall / (cpu_s / cores) for wall, cpu_s in rounds]
    rows = "\n".join(
        f"| {n} | {arguments.clips / wall:.2f} | {wall:.1f} | {cpu_s:.1f} | {ratio:.3f} |"
        for n, ((wall, cpu_s), ratio) in enumerate(zip(rounds, ratios), 1)
    )
    version = subprocess.run([arguments.ours, "--version"], capture_output=True, text=True).stdout.strip()
    text = (
        f"# Clips from file to answer\n\nMade by `bench/engine/clips.py`: {arguments.clips} clips of samples/spriteworld, captioned by "
        f"`flamingo run` with flamingo-mini and default settings, without the cache of visual tokens{' (' + ' '.join(more) + ')' if more else ''}. "
        f"{cpu()}, load average at the end {os.getloadavg()[0]:.1f}; {version}.\n\nThe ratio is wall "
        f"time divided by the CPU time of all stages (the program and its decoders) per core; 1 means cores that never wait, "
        f"including the loading of the model. Goal: at most 1.15. Median: **{statistics.median(ratios):.3f}**.\n\n"
        f"| round | clips/s | wall, s | CPU, s | ratio |\n|---|---|---|---|---|\n{rows}\n"
    )
    pathlib.Path(arguments.out, "clips.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
