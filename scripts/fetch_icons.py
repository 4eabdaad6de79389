#!/usr/bin/env python3
"""Fetches the complete icon sets of SpriteWorld: Noto (Apache-2.0), Twemoji (CC-BY-4.0), Fluent Emoji Flat (MIT).

The repository has the drawings of both training configurations (data/icons), which demo, tests and training use. This script
fetches the complete sets into data/icons-full, for other things to draw: `icons = ["data/icons-full/noto.json", ...]` in the
`[world]` of a configuration.

npm packages contain the sets as Iconify JSON; npm_config_registry may name another registry. The script checks each package
against its SHA-512. It installs all three sets, or none; a second run does nothing.

    scripts/fetch_icons.py                 fetch the complete sets
    scripts/fetch_icons.py --write-shipped fetch them, then write data/icons: the concepts of config/train/*.toml
"""

import argparse
import base64
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
from pathlib import Path

# set: version, SHA-512 of the package as npm states it, SHA-256 of its icons.json
SETS = {
    "noto": ("1.2.9", "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
             "9eac6ef4e7ec122b6f0e7ac281d61008afdbc720d0ce861e398b939daaa347c6"),
    "twemoji": ("1.2.5", "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
                "5d5d820790565b764f2728675d487c9ee4c1fc83916d8567d5aca8ba7527c242"),
    "fluent-emoji-flat": (
        "1.2.6", "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "f5f4cf457c0db2ad5a2e42e033e02e0c87d10e43d0164cfffb3bb84914970a63"),
}
# What each licence asks of copies, beside the attribution.
TERMS = {
    "noto": lambda: "A copy of the licence is LICENSE-APACHE in the root folder of this repository.\n",
    "twemoji": lambda: "The drawings were selected from the complete set and put into one file; none was changed.\n",
    "fluent-emoji-flat": lambda: "\nCopyright (c) Microsoft Corporation.\n\n"
    + (ROOT / "LICENSE-MIT").read_text().split("\n\n", 2)[-1],
}
ROOT = Path(__file__).resolve().parent.parent
DEFAULT = ROOT / "data" / "icons-full"
SHIPPED = ROOT / "data" / "icons"


def fail(sentence):
    print(f"fetch_icons: {sentence}", file=sys.stderr)
    sys.exit(2)


def is_there(folder):
    """Whether `folder` has every set with its attribution and the right hash."""
    def right(name):
        icons = folder / f"{name}.json"
        return (icons.is_file() and hashlib.sha256(icons.read_bytes()).hexdigest() == SETS[name][2]
                and (folder / f"{name}.README.md").is_file() and (folder / f"{name}.LICENSE").is_file())
    return all(map(right, SETS))


def download(name):
    """Downloads the package of a set, and checks it."""
    version, expected, _ = SETS[name]
    registry = os.environ.get("npm_config_registry") or "https://registry.npmjs.org"
    address = f"{registry.rstrip('/')}/@iconify-json/{name}/-/{name}-{version}.tgz"
    try:
        with urllib.request.urlopen(address, timeout=120) as answer:
            package = answer.read()
    except (OSError, ValueError, urllib.error.URLError) as error:
        fail(f"@iconify-json/{name} {version} could not be downloaded (is there a network?): {error}")
    found = base64.b64encode(hashlib.sha512(package).digest()).decode()
    if found != expected:
        fail(f"@iconify-json/{name} {version} has SHA-512 {found}, expected {expected}")
    return package


def contents(name, package):
    """The files to keep of a package: file name -> bytes."""
    with tarfile.open(fileobj=io.BytesIO(package)) as archive:
        icons, readme, info = (archive.extractfile(f"package/{member}").read()
                               for member in ("icons.json", "README.md", "info.json"))
    about = json.loads(info)
    author, license = about["author"], about["license"]
    attribution = (f"{about['name']} by {author['name']}, {author['url']}\n"
                   f"{license['title']} ({license['spdx']}), {license['url']}\n"
                   f"As Iconify JSON from the npm package @iconify-json/{name} {SETS[name][0]}, unchanged.\n")
    return {f"{name}.README.md": readme, f"{name}.LICENSE": attribution.encode(), f"{name}.json": icons}


def write_shipped(folder):
    """Writes the drawings of all concepts of the training configurations, one per line, and their licences."""
    import tomllib  # Python 3.11; only this mode needs it

    concepts = set()
    for config in sorted((ROOT / "config" / "train").glob("*.toml")):
        concepts |= set(tomllib.loads(config.read_text())["world"]["concepts"])
    SHIPPED.mkdir(parents=True, exist_ok=True)
    for name in SETS:
        whole = json.loads((folder / f"{name}.json").read_text())
        head = {key: whole[key] for key in ("prefix", "width", "height") if key in whole}
        icons = {concept: whole["icons"][concept] for concept in sorted(concepts)}
        lines = ",\n".join(f"{json.dumps(key)}:{json.dumps(icon, separators=(',', ':'))}" for key, icon in icons.items())
        text = json.dumps(head, separators=(",", ":"))[:-1] + ',"icons":{\n' + lines + "\n}}\n"
        (SHIPPED / f"{name}.json").write_text(text)
        attribution = (folder / f"{name}.LICENSE").read_text()
        changed = attribution.replace(", unchanged.", f": {len(icons)} of {len(whole['icons'])} icons, each unchanged.")
        (SHIPPED / f"{name}.LICENSE").write_text(changed + TERMS[name]())
    print(f"{len(concepts)} drawings of each set written to {SHIPPED.relative_to(ROOT)}")


def fetch(folder):
    """Puts all sets into `folder`, or none."""
    try:
        if is_there(folder):
            print(f"{folder} has all icon sets already, with the right SHA-256")
            return
        files = {}
        for name in SETS:
            files |= contents(name, download(name))
        folder.mkdir(parents=True, exist_ok=True)
        # Written to a temporary folder and then renamed, so that no reader gets a partial file.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as part:
            for file, content in files.items():
                (Path(part) / file).write_bytes(content)
            for file in files:
                os.replace(Path(part) / file, folder / file)
    except (OSError, KeyError, AttributeError, ValueError, tarfile.TarError) as error:
        fail(f"cannot fetch the icon sets to {folder}: {error}")
    print(f"{', '.join(SETS)} fetched to {folder}, with the right SHA-512")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=DEFAULT, help="where the complete sets go")
    parser.add_argument("--write-shipped", action="store_true", help="then write data/icons from them")
    arguments = parser.parse_args()
    fetch(arguments.folder)
    if arguments.write_shipped:
        write_shipped(arguments.folder)


if __name__ == "__main__":
    main()
