"""Checks that the files of deploy/ and config/ agree with each other. check_deploy.sh runs it; it prints contradictions."""

import ast
import json
import pathlib
import re
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
complaints = []


def hold(true, sentence):
    if not true:
        complaints.append(sentence)


def read(path):
    return (ROOT / path).read_text(encoding="utf-8")


def documents(path):
    return [d for d in yaml.safe_load_all(read(path)) if d]


def setting(name):
    """A setting of production.toml, else its built-in value. Without a TOML parser: Python has one only from 3.11 on."""
    section, key = name.split(".")
    for path in ("config/production.toml", "config/default.toml"):
        inside = re.search(rf"^\[{section}\]$(.*?)(?=^\[|\Z)", read(path), re.M | re.S)
        found = inside and re.search(rf"^{key} = (.+)$", inside[1], re.M)
        if found:
            return found[1].strip('"')
    sys.exit(f"check_deploy.py: there is no setting {name}")


def seconds(text):
    number, unit = re.fullmatch(r"(\d+) ?(s|m|min|h)", text).groups()
    return int(number) * {"s": 1, "m": 60, "min": 60, "h": 3600}[unit]


def size(text):
    number, unit = re.fullmatch(r"(\d+)([MG]i)", text).groups()
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


compose = documents("deploy/compose.yaml")[0]
worker = documents("deploy/kubernetes/base/worker.yaml")[0]
pod = worker["spec"]["template"]["spec"]

# ---- times ----

broker = int(re.search(r"^consumer_timeout = (\d+)$", read("deploy/rabbitmq/rabbitmq.conf"), re.M)[1])
hold(
    broker == 1000 * seconds(setting("queue.consumer_timeout")),
    "consumer_timeout of rabbitmq.conf is not queue.consumer_timeout of production.toml",
)
grace, deadline, retry_timeout = (seconds(setting(f"worker.{n}")) for n in ("grace", "item_deadline", "retry_timeout"))
for place, least, given in [
    ("worker.yaml: terminationGracePeriodSeconds", grace + deadline, pod["terminationGracePeriodSeconds"]),
    ("compose.yaml: stop_grace_period", grace + retry_timeout, seconds(compose["services"]["worker"]["stop_grace_period"])),
    (
        "flamingo-worker.service: TimeoutStopSec",
        grace + retry_timeout,
        seconds(re.search(r"^TimeoutStopSec=(.+)$", read("deploy/systemd/flamingo-worker.service"), re.M)[1]),
    ),
]:
    hold(given > least, f"{place} is {given} s, which is not more than {least} s")

# ---- disk space for fetched videos ----

room = int(setting("worker.temporary_bytes"))
hold(room >= int(setting("inputs.max_bytes")), "worker.temporary_bytes is less than one video may have")
for volume in (v for v in pod["volumes"] if "emptyDir" in v):
    hold(size(volume["emptyDir"]["sizeLimit"]) > room, f"worker.yaml: {volume['name']} is too small for {room} bytes")

# ---- the same names everywhere ----

example = read("deploy/.env.example")
named = set(re.findall(r"^([A-Z_0-9]+)=", example, re.M))
workers = set(re.findall(r"^([A-Z_0-9]+)=", example.split("---- a worker ----")[1], re.M))
asked = set(re.findall(r"\$\{([A-Z_0-9]+)", read("deploy/compose.yaml")))
given = set(compose["services"]["worker"]["environment"])
secret = set(documents("deploy/kubernetes/base/secret.example.yaml")[0]["stringData"])
hold(asked | given == named, f".env.example and compose.yaml differ in {sorted((asked | given) ^ named)}")
hold(given | {"FLAMINGO_MODEL"} == workers, f"a worker of compose.yaml differs in {sorted(given ^ workers)}")
hold(secret <= workers, f"secret.example.yaml has {sorted(secret - workers)}, which .env.example has not")
hold(
    read("config/production.toml") == read("deploy/kubernetes/base/production.toml"),
    "deploy/kubernetes/base/production.toml is not a copy of config/production.toml",
)

# ---- permissions in the broker ----

definitions = json.loads(read("deploy/rabbitmq/definitions.json"))
lanes = [b["destination"] for b in definitions["bindings"] if b["source"] == "flamingo"]
queues = [queue["name"] for queue in definitions["queues"]]
exchanges = [exchange["name"] for exchange in definitions["exchanges"]]
# A worker declares and binds the queues of its model; binding needs to write to the queue and to read from the exchange.
routes = [f"flamingo.{lane}.{16 * digit}" for lane in ("items", "urgent") for digit in "0f"]
others = ["amq.topic", "another", "flamingo2", f"flamingo.jobs.{16 * '0'}", "flamingo.items.0", "flamingo.items.model", ""]
everything = queues + exchanges + routes + ["amq.default"] + others
# The default exchange routes to the queue that a job names in `reply_to`.
for user, declares, writes, reads in [
    ("flamingo-worker", routes, exchanges + routes + ["amq.default"], lanes + routes + ["flamingo"]),
    ("flamingo-submitter", [], ["flamingo"], []),
    ("flamingo-scaler", [], [], []),
]:
    (rights,) = [p for p in definitions["permissions"] if p["user"] == user]
    for right, names in (("configure", declares), ("write", writes), ("read", reads)):
        # The broker checks unnamed resources with an empty name.
        allowed = {name for name in everything if name and re.search(rights[right], name)}
        hold(allowed == set(names), f"definitions.json: {user} may {right} {sorted(allowed)}")

# ---- versions ----

least = re.search(r'^rust-version = "(.+)"$', read("Cargo.toml"), re.M)[1]
version = re.search(r'^\[workspace\.package\]\nversion = "(.+)"$', read("Cargo.toml"), re.M)[1]


def number(text):
    return [int(part) for part in text.split(".")]


for path in ("deploy/docker/Dockerfile", "deploy/docker/Dockerfile.cuda"):
    rust = re.search(r"^FROM rust:([\d.]+)-", read(path), re.M)[1]
    hold(number(rust) >= number(least), f"{path}: Rust {rust} is older than {least}")
for name, service in compose["services"].items():
    image, _, tag = service["image"].partition(":")
    hold(tag not in ("", "latest"), f"compose.yaml: {name} has no version of {image}")
    hold(image != "flamingo" or tag == version, f"compose.yaml: {name} has not version {version}")
for folder in ("base", "gpu"):
    for image in documents(f"deploy/kubernetes/{folder}/kustomization.yaml")[0]["images"]:
        hold(image["newTag"].split("-")[0] == version, f"{folder}/kustomization.yaml has not version {version}")

# ---- kustomize lists existing files, and all of them ----

for file in sorted((ROOT / "deploy/kubernetes").glob("*/kustomization.yaml")):
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    used = content.get("resources", []) + content.get("components", [])
    used += [patch["path"] for patch in content.get("patches", [])]
    used += [path for made in content.get("configMapGenerator", []) for path in made["files"]]
    for path in used:
        hold((file.parent / path).exists(), f"{file.parent.name}/kustomization.yaml: there is no {path}")
    for other in file.parent.glob("*.yaml"):
        known = other.name in used or other == file or ".example." in other.name
        hold(known, f"{file.parent.name}/kustomization.yaml: {other.name} is not in it")

# ---- a patch changes existing objects only ----

patch = documents("deploy/kubernetes/gpu/worker.yaml")[0]
hold(
    [c["name"] for c in patch["spec"]["template"]["spec"]["containers"]] == [c["name"] for c in pod["containers"]],
    "gpu/worker.yaml patches a container that base/worker.yaml has not",
)
for name in ("kind", "apiVersion"):
    hold(patch[name] == worker[name], f"gpu/worker.yaml: {name} is not that of base/worker.yaml")

# ---- monitored metrics are exported by workers ----

counted, scraped = (read(f"workers/video-worker/src/http/metrics/{name}.rs") for name in ("mod", "scrape"))
kinds = dict(re.findall(r"^    (\w+): (?:Family<\w+, )?(Counter|Gauge|StageSeconds)\b", counted, re.M)) | {"build": "Gauge"}
suffixes = {"Counter": ["_total"], "Gauge": [""], "StageSeconds": ["_bucket", "_sum", "_count"]}
exported = {f"flamingo_{name}" for name in re.findall(r'gauges?\(registry,\s*"(\w+)"', scraped)}
exported |= {f"flamingo_{name}_total" for name in re.findall(r'registry\.register\("(\w+)"', scraped)}
for field, name in re.findall(r'(\w+)(?:: | = )register\(\s*r,\s*"(\w+)"', counted):
    exported |= {f"flamingo_{name}{suffix}" for suffix in suffixes[kinds[field]]}
for names in re.findall(r'register_renamed\(\s*r,\s*"(\w+)",\s*"(\w+)"', counted):
    exported |= {f"flamingo_{name}_total" for name in names}
for path in ("deploy/monitoring/alerts.yaml", "deploy/monitoring/dashboard.json", "deploy/runbook.md"):
    used = set(re.findall(r"\bflamingo_[a-z_]*[a-z]\b(?!_)", read(path))) - {"flamingo_scratch"}
    hold(used <= exported, f"{path} uses {sorted(used - exported)}, which no worker exports")
    hold(used, f"{path} uses no metric")
for rule in documents("deploy/monitoring/alerts.yaml")[0]["groups"][0]["rules"]:
    hold(rule["annotations"]["summary"] and rule["labels"]["severity"] in ("page", "ticket"), f"{rule['alert']} says nothing")

# ---- syntax ----

for path in ROOT.glob("deploy/**/*.json"):
    json.loads(path.read_text(encoding="utf-8"))
for path in ROOT.glob("deploy/**/*.py"):
    ast.parse(path.read_text(encoding="utf-8"), str(path))

for complaint in complaints:
    print(complaint, file=sys.stderr)
sys.exit(bool(complaints))
