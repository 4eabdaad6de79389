#!/usr/bin/env python3
"""Reports of `flamingo caption|ask --json`, one JSON object per line -> a table.

    scripts/table.py [clips.jsonl] < reports.jsonl

With the clips.jsonl of `flamingo data spriteworld`, each answer is compared with the true one.
"""

import json
import sys
import textwrap
from pathlib import Path

WIDTH = 44
COLUMNS = "{:<10} {:>6} {:>7}  {:<44} {:<28} {:>6}"


def truths(clips):
    """All right answers: (clip, question or None for a caption) -> answers."""
    known = {}
    for clip in map(json.loads, clips):
        known[clip["file"], None] = clip["captions"]
        known.update({(clip["file"], q["question"]): [q["answer"]] for q in clip["questions"]})
    return known


def rows(report, known):
    """Yields the cells of every answer; a failed input has one row with its error."""
    name = ", ".join(Path(path).name for path in report["input"])
    if report["status"] != "succeeded":
        yield name, "-", "-", f"failed: {report['error']['message']}", "", "-"
        return
    for answer in report["answers"]:
        question, given = answer.get("question"), " ".join(answer["text"].split())
        right = known.get((name, question))
        verdict = "" if right is None else "yes" if given in right else f"no: {right[0]}"
        frames = sum(len(times) for times in answer["frame_times"])
        length = f"{answer['end'] - answer['start']:.0f} s"
        text = (f"{question} " if question else "") + (given or "(nothing)")
        yield name, length, frames, text, verdict, f"{report['timing']['total_s']:.1f} s"


def main():
    known = truths(open(sys.argv[1])) if len(sys.argv) > 1 else {}
    heads = ("clip", "length", "frames", "answer", "right?", "took")
    print(COLUMNS.format(*heads))
    print(COLUMNS.format(*("-" * len(head) for head in heads)))
    for report in map(json.loads, sys.stdin):
        for name, length, frames, text, verdict, took in rows(report, known):
            answer, truth = textwrap.wrap(text, WIDTH), textwrap.wrap(verdict, 28) or [""]
            for i in range(max(len(answer), len(truth))):
                cell = lambda lines: lines[i] if i < len(lines) else ""
                ends = (name, length, frames, took) if i == 0 else ("", "", "", "")
                print(COLUMNS.format(*ends[:3], cell(answer), cell(truth), ends[3]).rstrip())


if __name__ == "__main__":
    main()
