#!/usr/bin/env python3
"""Reports of `flamingo caption|ask --json`, one JSON object per line -> a table that people can read."""

import json
import sys
import textwrap

COLUMNS = "{:<24} {:>6} {:>7}  {:<48} {:>7}"


def rows(report):
    """The cells of every answer; a failed input has one row with its error."""
    name = ", ".join(report["input"])
    if report["status"] != "succeeded":
        yield name, "-", "-", f"failed: {report['error']['message']}", "-"
        return
    for answer in report["answers"]:
        question = f"{answer['question']} " if answer.get("question") else ""
        text = question + (" ".join(answer["text"].split()) or "(nothing)")
        frames = sum(len(times) for times in answer["frame_times"])
        length = f"{answer['end'] - answer['start']:.0f} s"
        yield name, length, frames, text, f"{report['timing']['total_s']:.1f} s"


def main():
    heads = ("clip", "length", "frames", "answer", "took")
    print(COLUMNS.format(*heads))
    print(COLUMNS.format(*("-" * len(head) for head in heads)))
    for line in sys.stdin:
        for name, length, frames, text, took in rows(json.loads(line)):
            first, *rest = textwrap.wrap(text, 48)
            print(COLUMNS.format(name, length, frames, first, took))
            for line in rest:
                print(COLUMNS.format("", "", "", line, "").rstrip())


if __name__ == "__main__":
    main()
