"""Measures the model of a `flamingo bench --json` report in PyTorch, in the same rows, and prints one JSON object.

    peer.py REPORT [--device cuda] [--seconds N] [--eager]

Weights are random, in the dtype of the report; the number of parameters of every part must equal that of the report. Where a
compiler is installed, encoder and decoding are also measured with torch.compile. Needs torch, and timm for the encoder.
"""

import argparse, json, shutil, statistics, sys, time

import torch

from model import Flamingo, vision

FRAMES, STEPS = 8, 64  # as in workers/cli/src/bench/stages.rs
DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}


def note(text):
    print(f"note: {text}", file=sys.stderr)


def check(report, part, module):
    found, expected = sum(p.numel() for p in module.parameters()), report["parameters"][part]
    if found != expected:
        sys.exit(f"{part}: {found} parameters here, {expected} in the report")


class Bench:
    def __init__(self, report, arguments):
        self.report, self.seconds, self.rows = report, arguments.seconds, []
        self.to = dict(device=arguments.device, dtype=DTYPES[report["dtype"]])
        compiler = shutil.which("g++") if arguments.device == "cpu" else True
        self.compile = bool(compiler) and not arguments.eager

    def batches(self, row):
        return [r["batch"] for r in self.report["rows"] if r["row"] == row]

    def sync(self):
        if self.to["device"] != "cpu":
            torch.cuda.synchronize()

    def measure(self, row, batch, units, unit, run):
        """As in flamingo: one warm-up run, then runs until the time is over, at least three unless that takes ten times as long."""
        run()
        self.sync()
        begin, seconds = time.perf_counter(), []
        while True:
            start = time.perf_counter()
            run()
            self.sync()
            seconds.append(time.perf_counter() - start)
            spent = time.perf_counter() - begin
            if spent >= self.seconds and (len(seconds) >= 3 or spent >= 10 * self.seconds):
                break
        value = units / statistics.median(seconds)
        self.rows.append(dict(row=row, batch=batch, unit=unit, value=value, repetitions=len(seconds)))
        print(f"{row} {batch}: {value:.2f} {unit}", file=sys.stderr)

    def both(self, row, module, measure, **options):
        """Measures in eager mode, then compiled."""
        measure(row, module)
        if self.compile:
            try:
                measure(f"{row}, compiled", torch.compile(module, dynamic=False, **options))
            except Exception as error:  # compilers raise errors of any type
                note(f"{row} cannot be compiled: {str(error).splitlines()[0]}")

    def encoder(self):
        try:
            net = vision(self.report["shape"]["vision"])
        except ImportError:
            return note("the encoder is skipped: timm is not installed")
        check(self.report, "vision", net)
        net = net.to(**self.to).eval()
        size = self.report["shape"]["vision"]["size"]
        for n in self.batches("encoder"):
            pixels = torch.rand(n, 3, size, size, **self.to)
            self.both("encoder", net.forward_features, lambda row, f: self.measure(row, n, n, "images/s", lambda: f(pixels)))

    def flamingo(self):
        shape = self.report["shape"]
        with torch.device(self.to["device"]):
            model = Flamingo(shape).to(**self.to).eval()
        for part in ("resampler", "cross_attention", "language"):
            check(self.report, part, getattr(model, part))
        patches = -(-shape["vision"]["size"] // 32)
        patches *= patches
        width = shape["vision"]["widths"][-1] if shape["vision"]["features"] == "final_stage" else shape["vision"]["final_width"]
        if self.batches("resampler"):
            features = torch.rand(1, FRAMES, patches, width, **self.to)
            self.measure("resampler", 1, 1, "videos/s", lambda: model.resampler(features))
        for b in self.batches("prefill"):
            self.prefill(model, b)
        for b in self.batches("decode"):
            # On a GPU, this mode records the step as one CUDA graph.
            mode = "default" if self.to["device"] == "cpu" else "reduce-overhead"
            self.both("decode", model, lambda row, f: self.decode(row, model, f, b), mode=mode)

    def start(self, model, b, limit):
        """Prompts with one medium each, an empty cache, and the rotary embeddings of all positions."""
        r, n = self.report["shape"]["resampler"], self.report["prompt_tokens"]
        ids = torch.arange(b * n, device=self.to["device"]).view(b, n) * 37 % self.report["shape"]["language"]["vocabulary"]
        media = model.media_kv(torch.rand(b, r["latents"], r["width"], **self.to))
        return ids, torch.arange(n, device=ids.device), model.cache(b, limit), model.rotary(limit), media

    def prefill(self, model, b):
        n = self.report["prompt_tokens"]
        start = self.start(model, b, n)
        self.measure("prefill", b, b * n, "tokens/s", lambda: model(*start).tolist())

    def decode(self, row, model, step, b):
        n = self.report["prompt_tokens"]
        ids, positions, cache, rotary, media = self.start(model, b, n + STEPS)
        state = dict(ids=model(ids, positions, cache, rotary, media), past=n)

        def run():
            position = torch.tensor([state["past"]], device=ids.device)
            state["ids"] = step(state["ids"][:, None], position, cache, rotary, media).clone()
            state["ids"].tolist()  # the host reads every token, as in flamingo
            state["past"] = n + (state["past"] + 1 - n) % STEPS

        self.measure(row, b, b, "tokens/s", run)


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--eager", action="store_true")
    arguments = parser.parse_args()
    with open(arguments.report) as file:
        report = json.load(file)
    if arguments.device == "cpu":
        torch.set_num_threads(report["threads"])
    torch.manual_seed(0)
    bench = Bench(report, arguments)
    bench.encoder()
    bench.flamingo()
    print(json.dumps({"torch": torch.__version__, "rows": bench.rows}))


if __name__ == "__main__":
    main()
