"""Makes the data of accuracy.sh.

    clips.py world FILE                     writes the world of flamingo-mini with eight things, each alone
    clips.py labels names|words DIR COUNT   writes DIR/labels.jsonl: COUNT clips of each thing, with its name or an invented word
"""

import json
import re
import sys
from collections import Counter
from pathlib import Path

WORDS = {
    "anchor": "blicket", "banana": "dax", "crab": "wug", "flamingo": "toma", "hammer": "fep", "key": "zorp", "owl": "kiki", "rocket": "mulp",
}


def world(path):
    text = Path("config/train/flamingo-mini.toml").read_text()
    concepts = ", ".join(f'"{name}"' for name in WORDS)
    text = re.sub(r"concepts = \[.*?\]", f"concepts = [{concepts}]", text, count=1, flags=re.S)
    text = re.sub(r"families = \[.*?\]", 'families = ["single"]', text, count=1, flags=re.S)
    Path(path).write_text(text)


def labels(kind, folder, count):
    folder = Path(folder)
    used, lines = Counter(), []
    for line in (folder / "clips.jsonl").read_text().splitlines():
        clip = json.loads(line)
        name = next(q["answer"] for q in clip["questions"] if q["kind"] == "what")
        if used[name] < count:
            used[name] += 1
            lines.append(json.dumps({"media": clip["file"], "output": WORDS[name] if kind == "words" else name}))
    few = [name for name in WORDS if used[name] < count]
    assert not few, f"too few clips of {few}"
    (folder / "labels.jsonl").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    command, *arguments = sys.argv[1:]
    if command == "world":
        world(*arguments)
    else:
        labels(arguments[0], arguments[1], int(arguments[2]))
