"""Compares the logits of `flamingo model trace` on a checkpoint of real size with those of the original code in f32, which reads one layer at a
time: the unquantised model does not fit in memory. The logits of the original code are kept beside the traces, in reference.safetensors, for other
traces of the same prompt and pixels.

    reference.py openflamingo-9b|mllama-11b DIR TRACE.safetensors...

Needs torch, transformers (4.46.3 or 4.49.0), safetensors, and for openflamingo-9b open_flamingo 2.0.1 with einops.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Files:
    """All tensors of a checkpoint's safetensors, read on demand in f32."""

    def __init__(self, directory):
        self.place = {}
        for path in sorted(Path(directory).glob("*.safetensors")):
            file = safe_open(path, "pt")
            self.place |= {name: file for name in file.keys()}

    def below(self, prefix):
        names = [name for name in self.place if name.startswith(prefix)]
        return {name.removeprefix(prefix): self.place[name].get_tensor(name).float() for name in names}


def fill(module, tensors, strict=True):
    module.load_state_dict(tensors, strict=strict, assign=True)
    module.eval()


def stream(layer, read):
    """Makes a layer read its tensors before each pass and drop them after it."""
    layer.register_forward_pre_hook(lambda *_: fill(layer, read()))
    layer.register_forward_hook(lambda *_: (layer.to("meta"), None)[1])


def openflamingo(directory, trace):
    from open_flamingo.src.flamingo import Flamingo
    from open_flamingo.src.flamingo_lm import FlamingoLMMixin
    from open_flamingo.src.utils import extend_instance
    from transformers import CLIPVisionConfig, CLIPVisionModel, MptConfig, MptForCausalLM

    class Patches(torch.nn.Module):
        """open_clip's interface: (pooled, patch tokens without the final norm)."""

        def __init__(self, clip):
            super().__init__()
            self.clip = clip

        def forward(self, x):
            return None, self.clip(x).last_hidden_state[:, 1:]

    vision_config = json.loads((directory / "vision/config.json").read_text())["vision_config"]
    clip = CLIPVisionModel(CLIPVisionConfig(**vision_config))
    fill(clip, Files(directory / "vision").below(""))
    with torch.device("meta"):
        language = MptForCausalLM(MptConfig(**json.loads((directory / "language/config.json").read_text())))
    blocks = list(language.transformer.blocks)
    extend_instance(language, FlamingoLMMixin)
    language.set_decoder_layers_attr_name("transformer.blocks")
    every = json.loads((directory / "config.json").read_text())["cross_attn_every_n_layers"]
    with torch.device("meta"):
        model = Flamingo(SimpleNamespace(visual=Patches(clip)), language, 50277, 50278, vis_dim=1024, cross_attn_every_n_layers=every)
    trained = {name: tensor.float() for name, tensor in torch.load(directory / "checkpoint.pt", mmap=True, weights_only=True).items()}
    below = lambda prefix: {name.removeprefix(prefix): tensor for name, tensor in trained.items() if name.startswith(prefix)}
    model.perceiver.to_empty(device="cpu")
    fill(model.perceiver, below("perceiver."))
    files = Files(directory / "language")
    for i, block in enumerate(blocks):
        stream(block, lambda i=i: files.below(f"transformer.blocks.{i}."))
        gated = language.gated_cross_attn_layers[i]
        if gated is not None:
            gated.to_empty(device="cpu")
            fill(gated, below(f"lang_encoder.transformer.blocks.{i}.gated_cross_attn_layer."))
    language.transformer.norm_f.to_empty(device="cpu")
    fill(language.transformer.norm_f, files.below("transformer.norm_f."))
    embedding = torch.nn.Parameter(trained["lang_encoder.transformer.wte.weight"])
    language.transformer.wte.weight = language.lm_head.weight = embedding
    ids = trace["input_ids"].long()[None]
    return model(vision_x=trace["pixels"].float()[None, :, None], lang_x=ids, attention_mask=torch.ones_like(ids)).logits[0]


def mllama(directory, trace):
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    config = MllamaConfig.from_pretrained(directory)
    config._attn_implementation = "eager"
    config.text_config._attn_implementation = config.vision_config._attn_implementation = "eager"
    with torch.device("meta"):
        model = MllamaForConditionalGeneration(config)
    files = Files(directory)
    language = model.language_model.model
    rotary = type(language.rotary_emb)(config.text_config)
    language.rotary_emb = rotary
    for i, layer in enumerate(language.layers):
        stream(layer, lambda i=i: files.below(f"language_model.model.layers.{i}."))
    for part, name in (("transformer", "transformer"), ("global_transformer", "global_transformer")):
        for i, layer in enumerate(getattr(model.vision_model, part).layers):
            stream(layer, lambda i=i, name=name: files.below(f"vision_model.{name}.layers.{i}."))
    for module, prefix in ((language.norm, "language_model.model.norm."), (language.embed_tokens, "language_model.model.embed_tokens."),
                           (model.language_model.lm_head, "language_model.lm_head."), (model.multi_modal_projector, "multi_modal_projector.")):
        fill(module, files.below(prefix))
    others = {n: t for n, t in files.below("vision_model.").items() if "transformer.layers." not in n}
    fill(model.vision_model, others, strict=False)
    ids = trace["input_ids"].long()[None]
    pixels = trace["pixels"].float()[None]  # (1, 1, tiles, 3, S, S)
    rows, columns = trace["grids"][0].tolist()
    ratio_ids = torch.tensor([[1 + config.vision_config.supported_aspect_ratios.index([rows, columns])]])
    mask = (torch.arange(4) < rows * columns).long()[None, None]  # (1, 1, tiles)
    start = (ids[0] == config.image_token_index).nonzero()[0, 0]
    cross = torch.zeros(1, ids.shape[1], 1, 4, dtype=torch.long)
    cross[:, start:] = mask
    return model(input_ids=ids, pixel_values=pixels, aspect_ratio_ids=ratio_ids, aspect_ratio_mask=mask, cross_attention_mask=cross).logits[0]


def read(path):
    file = safe_open(path, "pt")
    return {name: file.get_tensor(name) for name in file.keys()}


def compare(name, got, expected):
    got = got.float()[:, : expected.shape[1]]
    expected = expected[:, : got.shape[1]]
    p = expected.log_softmax(-1)
    divergence = (p.exp() * (p - got.log_softmax(-1))).sum(-1)
    error = float((got - expected).abs().max() / expected.abs().max())
    same = int((got.argmax(-1) == expected.argmax(-1)).sum())
    print(f"{name}: logits max|a-b| / max|b| {error:.2e}, mean KL {float(divergence.mean()):.2e} nats, best ids equal {same} of {len(divergence)}")


def reference(kind, directory, trace, kept):
    """The logits of the original code, from the file `kept` if that is about the same prompt and pixels."""
    inputs = {name: trace[name] for name in ("input_ids", "pixels")}
    if kept.exists():
        found = read(kept)
        if all(torch.equal(found[name], value) for name, value in inputs.items()):
            return found["logits"]
    with torch.no_grad():
        logits = KINDS[kind](directory, trace)
    save_file({name: value.contiguous() for name, value in (inputs | {"logits": logits}).items()}, kept)
    return logits


KINDS = {"openflamingo-9b": openflamingo, "mllama-11b": mllama}


def main():
    if len(sys.argv) < 4 or sys.argv[1] not in KINDS:
        sys.exit(__doc__)
    for path in map(Path, sys.argv[3:]):
        trace = read(path)
        expected = reference(sys.argv[1], Path(sys.argv[2]), trace, path.with_name("reference.safetensors"))
        compare(path.stem, trace["logits"], expected)


if __name__ == "__main__":
    main()
