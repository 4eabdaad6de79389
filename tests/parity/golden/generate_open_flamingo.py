"""Makes the goldens of OpenFlamingo: python generate_open_flamingo.py (in this folder, requirements_open_flamingo.txt installed).

The model is built by open_flamingo's own `create_model_and_transforms` with smaller resampler and cross-attention, over
clip/open_clip/ and a tiny language model, and saved by its own code:
open_flamingo_llama        the language model, and a release: trained parts and embeddings only
open_flamingo_llama_old    a training checkpoint of version 1: cross-attention under both names, `module.`, nested
open_flamingo_llama_full   an unfiltered checkpoint: everything, most of it twice

open_flamingo_neox         GPT-NeoX with a padded vocabulary and a head of its own
open_flamingo_mpt          MPT, whose head is the embedding

The goldens open_flamingo_{llama,neox,mpt}.safetensors hold, for every prompt, the pixels and all stages, and generated tokens.
"""

import functools
import json
import pathlib
import shutil
import sys
import types

import numpy as np
import open_clip
import torch
import torchvision.transforms as T
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPTNeoXConfig, GPTNeoXForCausalLM, GPTNeoXTokenizerFast, LlamaConfig, LlamaForCausalLM, MptConfig, MptForCausalLM,
)

for name in ("wandb",):  # train_utils reports to it; nothing here does.
    sys.modules.setdefault(name, types.ModuleType(name))
import open_flamingo
import open_flamingo.src.flamingo
import open_flamingo.src.flamingo_lm
from open_flamingo.train.train_utils import filter_state_dict_to_trainable

import rule
from tiny_tokenizer import CORPUS, tiny

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
CLIP = HERE / "clip" / "open_clip"
MARGIN, SEEDS = 1e-2, 200
# 8 heads, as in the original. Everything else is smaller.
open_flamingo.src.flamingo.PerceiverResampler = functools.partial(
    open_flamingo.src.flamingo.PerceiverResampler, depth=2, dim_head=2, num_latents=5, ff_mult=2)
open_flamingo.src.flamingo_lm.GatedCrossAttentionBlock = functools.partial(
    open_flamingo.src.flamingo_lm.GatedCrossAttentionBlock, dim_head=3, ff_mult=2)

PICTURES = [(15, 15), (37, 23), (7, 50), (31, 19), (64, 48)]
PROMPTS = {
    "blind": ("Two people are", []),
    "one": ("<image>Output:", [1]),
    "late": ("the man<image>Question:What is in this picture? Short answer:", [0]),
    "three": ("<image>Output:a dog<|endofchunk|>\n<image>Output:two kittens<|endofchunk|>\n<image>Output:", [2, 3, 1]),
    "adjacent": ("<image><image>Output:the beach", [1, 4]),
}
ANSWERS = [" a dog", " two kittens in the grass", " No"]
BEAMS = [(1, 1.0, 32), (3, 1.0, 12), (3, 0.0, 10)]  # beams, length penalty, most new tokens


def picture(width, height):
    name = f"picture.{width}x{height}"
    pixels = (rule.uniform(name, height * width * 3) * 127.5 + 127.5).astype(np.uint8).reshape(height, width, 3)
    y, x = np.mgrid[0:height, 0:width]
    pixels[..., 0] = (x * 255 // (width - 1)).astype(np.uint8)
    pixels[..., 1] = np.where((x // 4 + y // 3) % 2, 255, pixels[..., 1])
    return Image.fromarray(pixels)


def randomise(named, seed):
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape, std, mean=0.0: mean + std * torch.randn(shape, generator=generator)
    with torch.no_grad():
        for name, p in sorted(named):
            last = name.rsplit(".", 1)[-1]
            if last.endswith("gate"):
                p.copy_(normal(p.shape, 0.3, 0.6 if last == "attn_gate" else -0.7))
            elif p.dim() == 1:
                p.copy_(normal(p.shape, 0.1, 1.0 if last == "weight" else 0.0))
            elif "latents" in name:
                # Small, so that the epsilon of their normalisation shows.
                p.copy_(normal(p.shape, 0.05))
            else:
                # A wide head: the best id leads by more than the last bits of two machines.
                p.copy_(normal(p.shape, 2.0 if "lm_head" in name or "embed_out" in name else 0.5 if "wte" in name else 0.2))


def llama(folder):
    """A LLaMA without a padding token, as the first checkpoints had it."""
    tiny(folder, 300, [])
    for file in ("tokenizer_config.json", "special_tokens_map.json"):
        settings = json.loads((folder / file).read_text())
        settings.pop("pad_token", None)
        (folder / file).write_text(json.dumps(settings, indent=2) + "\n")
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=300, hidden_size=20, intermediate_size=28, num_hidden_layers=4, num_attention_heads=2,
        max_position_embeddings=160, rms_norm_eps=1e-6))


def byte_level(folder):
    """A tokenizer of GPT-NeoX's type with 270 tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<|endoftext|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    text = "<|endoftext|>"
    GPTNeoXTokenizerFast(tokenizer_object=tokenizer, unk_token=text, bos_token=text, eos_token=text).save_pretrained(folder)


def neox(folder):
    byte_level(folder)
    return GPTNeoXForCausalLM(GPTNeoXConfig(
        vocab_size=288, hidden_size=24, intermediate_size=36, num_hidden_layers=4, num_attention_heads=3, rotary_pct=0.5,
        max_position_embeddings=160, bos_token_id=0, eos_token_id=0))


def mpt(folder):
    byte_level(folder)
    return MptForCausalLM(MptConfig(vocab_size=288, d_model=18, n_heads=3, n_layers=3, max_seq_len=160, bos_token_id=0, eos_token_id=0))


def language(folder, make, seed):
    """Writes a language model in bf16."""
    shutil.rmtree(folder, ignore_errors=True)
    model = make(folder)
    randomise(model.named_parameters(), seed)
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()


def create(language, every, seed):
    cfg = json.loads((CLIP / "open_clip_config.json").read_text())["model_cfg"]
    open_clip.factory._MODEL_CONFIGS["tiny"] = cfg
    model, transform, tokenizer = open_flamingo.create_model_and_transforms(
        "tiny", str(CLIP / "open_clip_pytorch_model.bin"), str(language), str(language), cross_attn_every_n_layers=every)
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    randomise(trained, seed)
    if hasattr(model.lang_encoder, "lm_head") and not model.lang_encoder.config.tie_word_embeddings:
        # open_flamingo does not save this head, so its new rows are lost. Ours are zero.
        model.lang_encoder.lm_head.weight.data[-3:] = 0.0
    return model.eval(), transform, tokenizer


class Reference:
    def __init__(self, model, transform, tokenizer):
        self.model, self.transform, self.tokenizer = model, transform, tokenizer
        self.image, self.end = (tokenizer.convert_tokens_to_ids(t) for t in ("<image>", "<|endofchunk|>"))
        self.pixels = [transform(picture(*size)) for size in PICTURES]
        self.stages = {}
        self.keep(model.vision_encoder, "features", lambda out: out[1])
        self.keep(model.perceiver, "visual_tokens", lambda out: out[0])
        for i, block in enumerate(model.lang_encoder.gated_cross_attn_layers):
            if block is not None:
                self.keep(block, f"xattn.{i}", lambda out: out[0])

    def keep(self, module, stage, value):
        module.register_forward_hook(lambda _, __, out: self.stages.__setitem__(stage, value(out).clone()))

    def inputs(self, text, images):
        ids = self.tokenizer(text, return_tensors="pt")["input_ids"]
        pixels = [self.pixels[i] for i in images] or [torch.zeros(3, 15, 15)]
        return torch.stack(pixels)[None, :, None], ids

    def logits(self, vision, ids):
        return self.model(vision_x=vision, lang_x=ids, attention_mask=torch.ones_like(ids)).logits[0]

    def written(self, vision, ids, beams, penalty, most):
        arguments = dict(num_beams=beams, do_sample=False, max_new_tokens=most, suppress_tokens=[self.image], pad_token_id=0)
        if beams > 1:
            arguments["length_penalty"] = penalty
        out = self.model.generate(vision_x=vision, lang_x=ids, attention_mask=torch.ones_like(ids), **arguments)[0, ids.shape[1]:]
        if beams == 1:
            rest = ids
            for _ in range(most):
                scores = self.logits(vision, rest)[-1]
                scores[self.image] = -torch.inf
                best = scores.topk(2)
                if (best.values[0] - best.values[1]).item() < MARGIN or best.indices[0] == self.end:
                    return None
                rest = torch.cat([rest, best.indices[:1][None]], 1)
            assert torch.equal(rest[0, ids.shape[1]:], out), "cached and uncached answers differ"
        return out

    def likelihood(self, vision, ids, answer):
        answer = torch.tensor([self.tokenizer.encode(answer, add_special_tokens=False)])
        logits = self.logits(vision, torch.cat([ids, answer], 1)).double().log_softmax(-1)
        return logits[ids.shape[1] - 1:-1].gather(1, answer[0][:, None]).sum().item()


def golden(reference, prompts):
    """All stages and answers, or None if a choice of a greedy answer is too close."""
    out = {}
    for i, size in enumerate(PICTURES):
        out[f"picture.{i}"] = torch.from_numpy(np.array(picture(*size)))
        out[f"pixels.{i}"] = reference.pixels[i][None]
    for name in prompts:
        text, images = PROMPTS[name]
        vision, ids = reference.inputs(text, images)
        out[f"{name}.ids"] = ids[0].to(torch.int32)
        reference.stages = {}
        out[f"{name}.logits"] = reference.logits(vision, ids)
        visual = ("features", "visual_tokens")
        out |= {f"{name}.{k}": v for k, v in reference.stages.items() if images or k not in visual}
        for beams, penalty, most in BEAMS:
            written = reference.written(vision, ids, beams, penalty, most)
            # The first language model ends an answer at the end of the text too, for want of a row for the end of a chunk.
            if written is None or reference.tokenizer.eos_token_id in written:
                return None
            out[f"{name}.written.{beams}.{penalty}"] = written.to(torch.int32)
        out[f"{name}.likelihoods"] = torch.tensor([reference.likelihood(vision, ids, a) for a in ANSWERS], dtype=torch.float64)
    return out


def wrong(reference):
    """Logits after the prompt `one` of wrong variants, which the tolerance of the tests must exclude."""
    def logits(attribute, kind, value, before):
        modules = [m for part in (reference.model.perceiver, reference.model.lang_encoder.gated_cross_attn_layers) for m in part.modules() if isinstance(m, kind)]
        for module in modules:
            assert getattr(module, attribute) == before
            setattr(module, attribute, value)
        out = reference.logits(*reference.inputs(*PROMPTS["one"]))
        for module in modules:
            setattr(module, attribute, before)
        return out

    return {
        "wrong.tanh_gelu": logits("approximate", torch.nn.GELU, "tanh", "none"),
        "wrong.eps": logits("eps", torch.nn.LayerNorm, 1e-6, 1e-5),
    }


def describe(folder, name, language, every):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({
        "schema": "open_flamingo/1", "name": name, "checkpoint": "checkpoint.pt", "language": language,
        "vision": "../clip/open_clip", "cross_attn_every_n_layers": every,
    }, indent=2) + "\n")


def save(name, make, every, prompts):
    """Writes the language model, the release and the golden of the first seed with clear answers. Returns the model."""
    folder = HERE / f"open_flamingo_{name}"
    shutil.rmtree(folder, ignore_errors=True)
    for seed in range(SEEDS):
        language(folder / "language", make, seed)
        model, transform, tokenizer = create(folder / "language", every, seed + 1000)
        reference = Reference(model, transform, tokenizer)
        out = golden(reference, prompts)
        if out is not None:
            break
    else:
        raise SystemExit(f"{name}: no seed gives clear answers")
    if name == "llama":
        out |= wrong(reference)
    describe(folder, f"tiny-{name}", "language", every)
    torch.save(filter_state_dict_to_trainable(model, dict(model.state_dict())), folder / "checkpoint.pt")
    rule.save(HERE / f"open_flamingo_{name}.safetensors", {k: v.contiguous() for k, v in out.items()},
              open_flamingo="2.0.1", open_clip=open_clip.version.__version__, seed=str(seed), generator=pathlib.Path(__file__).name)
    for file in [*folder.rglob("*"), HERE / f"open_flamingo_{name}.safetensors"]:
        if file.is_file():
            file.chmod(0o644)
    print(name, "seed", seed)
    return model


@torch.no_grad()
def main():
    model = save("llama", llama, 2, PROMPTS)
    old = HERE / "open_flamingo_llama_old"
    describe(old, "tiny-llama-old", "../open_flamingo_llama/language", 2)
    trained = {f"module.{n}": p.data for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    torch.save({"epoch": 3, "model_state_dict": trained, "optimizer_state_dict": {}, "lr_scheduler_state_dict": {"step": 7}}, old / "checkpoint.pt")
    full = HERE / "open_flamingo_llama_full"
    describe(full, "tiny-llama-full", "../open_flamingo_llama/language", 2)
    torch.save({"epoch": 3, "model_state_dict": model.state_dict(), "optimizer_state_dict": {}, "lr_scheduler_state_dict": {}}, full / "checkpoint.pt")
    save("neox", neox, 2, ["blind", "one", "adjacent"])
    save("mpt", mpt, 1, ["blind", "late", "adjacent"])


if __name__ == "__main__":
    main()
