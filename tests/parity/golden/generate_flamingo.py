"""Makes the golden of the whole model, flamingo.safetensors: python generate_flamingo.py (in this folder,
requirements_model.txt installed and transformers besides).

The reference is assembled from parts that are not ours: open_flamingo's resampler and gated cross-attention before the
layers of transformers' LlamaForCausalLM (tiny_llama/), written on by transformers' generate(). open_flamingo's own
wiring does not run on a transformers of today, and takes one frame per medium only.
"""

import pathlib

import torch
from transformers import AutoModelForCausalLM

import rule
from generate_model import helpers, with_squared_relu

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
MEDIA_TOKEN = 5
STOP = [17, 3, 44, 71, 90]
PLACEMENTS = {"open_flamingo": (2, 1), "paper": (2, 0)}  # every, first
FRAMES = [3, 1, 6]
PROMPTS = {
    "blind": ([1, 23, 45, 67, 89], []),
    "one": ([1, 5, 30, 60, 2, 9], [0]),
    "interleaved": ([1, 40, 5, 30, 31, 5, 5, 32, 33, 34], [2, 0, 1]),
}


class Reference:
    def __init__(self, of, every, first):
        self.model = AutoModelForCausalLM.from_pretrained(HERE / "tiny_llama", dtype=torch.float32).eval()
        self.resampler = of.PerceiverResampler(dim=24, depth=2, dim_head=10, heads=3, num_latents=7, max_num_frames=4, ff_mult=2)
        rule.fill(self.resampler, "perceiver.")
        with_squared_relu(self.resampler)
        self.seen = {}
        for i, layer in enumerate(self.model.model.layers):
            if i >= first and (i - first) % every == 0:
                block = of.GatedCrossAttentionBlock(dim=36, dim_visual=24, dim_head=10, heads=3, ff_mult=2)
                rule.fill(block, f"xattn.{i}.")
                with_squared_relu(block)
                layer.register_forward_pre_hook(self.hook(i, block), with_kwargs=True)

    def hook(self, i, block):
        def look(module, args, kwargs):
            x = args[0] if args else kwargs.pop("hidden_states")
            rows, n = x.shape[:2]
            locations = self.locations.expand(rows, -1)
            x = block(x, self.media.expand(rows, -1, -1, -1), media_locations=locations, use_cached_media=n != locations.shape[1])
            self.seen[f"xattn.{i}"] = x[0].clone()
            return (x, *args[1:]), kwargs
        return look

    def tokens(self, t, name):
        """Visual tokens of a medium; beyond the trained 4 frames the embedding is interpolated by torch."""
        x = torch.from_numpy(rule.values(name, (t, 3, 8, 11), 0.0, 1.7)).reshape(1, 1, t, 11, 24)
        trained = self.resampler.frame_embs
        if t > trained.shape[0]:
            longer = torch.nn.functional.interpolate(trained.T[None], size=t, mode="linear", align_corners=True)[0].T
            self.resampler.frame_embs = torch.nn.Parameter(longer)
        out = self.resampler(x)[:, 0]
        self.resampler.frame_embs = trained
        return out

    def prompt(self, ids, media):
        self.ids = torch.tensor([ids])
        self.locations = self.ids == MEDIA_TOKEN
        tokens = [self.tokens(FRAMES[m], f"pixels.{m}") for m in media] or [torch.zeros(1, 7, 24)]
        self.media = torch.stack(tokens, 1)


@torch.no_grad()
def main():
    of, version = helpers()
    out = {}
    for placement, (every, first) in PLACEMENTS.items():
        reference = Reference(of, every, first)
        for name, (ids, media) in PROMPTS.items():
            reference.prompt(ids, media)
            key = f"{placement}.{name}"
            if media:
                out[f"{key}.visual_tokens"] = reference.media[0].clone()
            reference.seen = {}
            out[f"{key}.logits"] = reference.model(reference.ids).logits[0].clone()
            out |= {f"{key}.{stage}": value for stage, value in reference.seen.items()}
            for beams, penalty, stop in ((1, 0.0, 2), (3, 0.0, 2), (3, 1.0, 5), (4, 0.5, 5), (2, -1.0, 3)):
                written = reference.model.generate(
                    reference.ids, attention_mask=torch.ones_like(reference.ids), do_sample=False, num_beams=beams, length_penalty=penalty,
                    early_stopping=False, max_new_tokens=9, eos_token_id=STOP[:stop], pad_token_id=0,
                    suppress_tokens=[MEDIA_TOKEN],
                )
                out[f"{key}.written.{beams}.{penalty}.{stop}"] = written[0, len(ids):].to(torch.uint32)
    rule.save(HERE / "flamingo.safetensors", {k: v.contiguous() for k, v in out.items()},
              reference=f"open_flamingo {version}", generator=pathlib.Path(__file__).name)
    for key, value in out.items():
        if "written" in key:
            print(key, value.tolist())


if __name__ == "__main__":
    main()
