"""Compares flamingo and PyTorch on the same shape in one run: interleaved rounds, medians.

    compare.py --ours BINARY --subject "ARGUMENTS" ... --out DIR [--rounds N] [--seconds N] [--device D]

A subject is a set of arguments of `flamingo bench`; all subjects must have the same shape. Ratios are times of a contestant
divided by those of the first subject, within a round: above 1, the first subject is faster.
"""

import argparse, json, os, platform, shlex, statistics, subprocess, sys, tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from machine import cpu  # bench/machine.py

HERE = os.path.dirname(os.path.abspath(__file__))


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"failed: {shlex.join(command)}")
    return json.loads(done.stdout.splitlines()[-1])


def one_round(arguments):
    """Runs all contestants once; the peer gets the shape from the first subject."""
    common = ["--device", arguments.device, "--seconds", str(arguments.seconds)]
    ours = {s: run([arguments.ours, "bench", *shlex.split(s), *common, "--json"]) for s in arguments.subject}
    first = next(iter(ours.values()))
    if any(report["shape"] != first["shape"] for report in ours.values()):
        sys.exit("the subjects have different shapes")
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(first, file)
        file.flush()
        theirs = run([sys.executable, os.path.join(HERE, "peer.py"), file.name, *common])
    return ours, theirs


def collect(rounds):
    """(row, batch) -> contestant -> its result in each round."""
    table = {}
    for ours, theirs in rounds:
        for subject, report in ours.items():
            for row in report["rows"]:
                table.setdefault((row["row"], row["batch"]), {}).setdefault(f"flamingo {subject}", []).append(row)
        for row in theirs["rows"]:
            name, _, mode = row["row"].partition(", ")
            contestant = f"torch, {mode}" if mode else "torch"
            table.setdefault((name, row["batch"]), {}).setdefault(contestant, []).append(row)
    return table


def lines(table):
    yield "| row | batch | | value | share of the floor | time / time of the first |"
    yield "|---|---|---|---|---|---|"
    for (row, batch), contestants in table.items():
        first = next(iter(contestants.values()))
        for name, runs in contestants.items():
            value = statistics.median(r["value"] for r in runs)
            floor = f"{statistics.median(r['ratio'] for r in runs):.2f} ({runs[0]['bound']})" if "ratio" in runs[0] else ""
            slower = statistics.median(mine["value"] / r["value"] for mine, r in zip(first, runs))
            ratio = f"{slower:.2f}" if len(contestants) > 1 and row != "peak memory" else ""
            yield f"| {row} | {batch} | {name} | {value:.4g} {runs[0]['unit']} | {floor} | {ratio} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("--ours", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--subject", action="append", required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    arguments = parser.parse_args()
    rounds = [one_round(arguments) for _ in range(arguments.rounds)]
    table = collect(rounds)
    ours, theirs = rounds[-1]
    report = next(iter(ours.values()))
    instruction = report["peaks"]["instruction"]
    product = statistics.median(r["peaks"]["product"] for o, _ in rounds for r in o.values()) / 1e9
    peak = f"one large product ({product:.1f} GFLOP/s)"
    if instruction:
        peak = f"the larger of {peak} and the multiply-add instruction of the CPU ({instruction['name']})"
    bf16 = (report.get("cpu") or {}).get("instruction_peaks", {}).get("bf16")
    if bf16 and arguments.device == "cpu":
        peak += f" (in bf16: {bf16['operations'] / 1e9:.1f} GFLOP/s, {bf16['name']})"
    peaks = [statistics.median(r["peaks"][k] for o, _ in rounds for r in o.values()) / 1e9 for k in ("operations", "bandwidth")]
    load = ", ".join(f"{r['load'][1]:.1f}" for o, _ in rounds for r in o.values())
    text = "\n".join(lines(table))
    os.makedirs(arguments.out, exist_ok=True)
    with open(os.path.join(arguments.out, "engine.json"), "w") as file:
        json.dump([{"ours": o, "theirs": t} for o, t in rounds], file, indent=1)
    with open(os.path.join(arguments.out, "engine.md"), "w") as file:
        file.write(
            f"# Throughput of each stage, next to its floor and to PyTorch\n\nMade by `bench/engine/run.sh`: `flamingo bench` and "
            f"`bench/engine/peer.py`, the same shape ({report['model']}) with the same number of parameters, on {report['device']}, "
            f"{report['dtype']}, {cpu()}, prompts of {report['prompt_tokens']} tokens. {arguments.rounds} interleaved "
            f"rounds, medians; load average after each run of flamingo: {load}. PyTorch computes with dense weights in every row; "
            f"ratios are against the first flamingo configuration.\n\nThe floor of a row is the time of its operations at the peak "
            f"of the machine, {peaks[0]:.1f} GFLOP/s: {peak}; or the time of its bytes at the memory bandwidth, {peaks[1]:.1f} "
            f"GB/s, whichever is longer. A share of 1 is the floor.\n\nVersions: flamingo {report['version']}, torch {theirs['torch']}, "
            f"python {platform.python_version()}.\n\n{text}\n"
        )
    print(text)


if __name__ == "__main__":
    main()
