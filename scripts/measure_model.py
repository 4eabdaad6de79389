#!/usr/bin/env python3
"""Measures a model on SpriteWorld: writes `metrics.json` next to its weights, and the table of its card to standard output.

    scripts/measure_model.py models/flamingo-mini [--clips 300] [--sample 24]

Every column is one run of `flamingo eval spriteworld`; the sample is a run on the first clips, which a test repeats.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONDITIONS = {
    "held-out seeds": [],
    "held-out combinations": ["--split", "combinations"],
    "frames shuffled": ["--show", "shuffled"],
    "blank": ["--show", "blank"],
    "16 frames": ["--show", "sixteen"],
}
SHOTS = (0, 4)


def evaluate(model, config, clips, arguments):
    program = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "flamingo"
    command = [program, "eval", "spriteworld", "--model", model, "--config", config, "--clips", str(clips), "--json"]
    done = subprocess.run(command + arguments, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(done.stderr)
    return json.loads(done.stdout)


def cell(score):
    if not score:
        return "-"
    return f"{100 * score['right'] / score['asked']:.0f} % ({100 * score['low']:.0f}-{100 * score['high']:.0f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--config", default="config/train/flamingo-mini.toml")
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--control-clips", type=int, help="clips of all columns but the first [default: as --clips]")
    parser.add_argument("--sample", type=int, default=24)
    parser.add_argument("--new-words", action="store_true", help="also episodes with invented words")
    parser.add_argument("--unseen", type=Path, help="icon set (Iconify JSON) that the training did not use")
    options = parser.parse_args()
    run = lambda clips, arguments: evaluate(options.model, options.config, clips, arguments)
    conditions = dict(CONDITIONS)
    if options.unseen:
        conditions["unseen drawings"] = ["--icons", str(options.unseen)]
    controls = options.control_clips or options.clips
    clips = lambda name: controls if conditions[name] else options.clips
    metrics = {name: run(clips(name), arguments) for name, arguments in conditions.items()}
    if options.new_words:
        for shots in SHOTS:
            metrics[f"{shots} shots"] = run(controls, ["--shots", str(shots)])
    metrics["sample"] = {"clips": options.sample, "scores": run(options.sample, [])}
    (options.model / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n")
    print("| kind | asked | " + " | ".join(conditions) + " |")
    print("| --- |" + " --- |" * (1 + len(conditions)))
    for kind in metrics["held-out seeds"]:
        scores = [metrics[name].get(kind) for name in conditions]
        print(f"| {kind} | {scores[0]['asked']} | " + " | ".join(map(cell, scores)) + " |")
    for shots in SHOTS if options.new_words else ():
        for kind, score in metrics[f"{shots} shots"].items():
            print(f"{kind}, {shots} shots: {cell(score)}")


if __name__ == "__main__":
    main()
