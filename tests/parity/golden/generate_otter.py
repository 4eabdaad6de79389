"""Makes the goldens of Otter: python generate_otter.py [VARIANT] (in this folder, requirements_idefics.txt installed;
OTTER_SOURCE names the folder `src` of github.com/Luodian/Otter).

The reference is Otter's own source with its hard-wired sizes (width 1024, 6 layers, heads of 64, 64 latents) replaced by tiny ones
before a model is built. It runs without its KV cache: with the cache it counts the media of the new token only, so that the text
after the first generated token attends to no medium. And it runs without the augmentation of media placement: the converted
OpenFlamingo models draw it in every pass, also after the training.
otter_video   LLaMA, frame embeddings, shards and final_weights.pt with the trained part, every second layer
otter_image   MPT, no frame embeddings, one .bin file, every layer, embeddings of small variance, model type `flamingo`

The tokenizers lack the media marker, as those of the language models do.
"""

import json
import os
import pathlib
import shutil
import sys
import types

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

import rule
from tiny_tokenizer import CORPUS, tiny

sys.modules["peft"] = types.ModuleType("peft")
for name in ("LoraConfig", "TaskType", "get_peft_model"):
    setattr(sys.modules["peft"], name, None)
# Names of older versions of transformers, which the parts of Otter's source that run do not use.
for module in (transformers.models.bloom.modeling_bloom, transformers.models.opt.modeling_opt):
    for name in ("_expand_mask", "_make_causal_mask"):
        if not hasattr(module, name):
            setattr(module, name, None)
sys.path.insert(0, os.environ["OTTER_SOURCE"])
import otter_ai.models.flamingo.modeling_flamingo as flamingo
import otter_ai.models.otter.modeling_otter as otter
from otter_ai.models.flamingo.configuration_flamingo import FlamingoConfig
from otter_ai.models.otter.configuration_otter import OtterConfig

# transformers 4.46 builds a default configuration to compare with; these classes have none.
for kind in (OtterConfig, FlamingoConfig):
    kind._get_non_default_generation_parameters = lambda self: {}

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
MARGIN, LAST = 1e-2, 4
WIDTH, LATENTS, DEPTH, HEAD_WIDTH, MAX_FRAMES = 12, 5, 2, 6, 6
VISION = dict(
    hidden_size=WIDTH, intermediate_size=28, num_hidden_layers=2, num_attention_heads=3, image_size=15, patch_size=5, hidden_act="quick_gelu",
)
LLAMA = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", hidden_size=20, intermediate_size=28, num_hidden_layers=4, num_attention_heads=2,
    vocab_size=324, rms_norm_eps=1e-6, max_position_embeddings=256,
)
MPT = dict(
    architectures=["MPTForCausalLM"], model_type="mpt", d_model=18, hidden_size=18, n_heads=3, n_layers=2, expansion_ratio=2, max_seq_len=256, vocab_size=330,
    attn_config=dict(attn_impl="torch", alibi=True), no_bias=True, norm_type="low_precision_layernorm", init_device="cpu",
)
SEEDS = {"video": 2, "image": 1}
# Frames of each medium by index of the pixels; text.
PROMPTS = {
    "one": [[1], "User: what is in this picture? GPT:<answer>"],
    "late": ["Two people", [0], "User: what? GPT:<answer>"],
    "three": [[2], [3], "User: a dog", [1], "the beach GPT:<answer>"],
}
VIDEOS = {"three_frames": [[0, 1, 2], "User: what happens? GPT:<answer>"], "five_frames": [[4, 3, 2, 1, 0], "User: what? GPT:<answer>"]}
ANSWERS = [" a dog", " two kittens in the grass"]
BEAMS = [(1, 1.0, 32), (3, 1.0, 10)]


def neox(folder, size):
    """A tokenizer of GPT-NeoX's type: pairs of bytes, no token at the beginning of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<|endoftext|>", "<|padding|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>")
    fast.save_pretrained(folder)
    return fast


class Sizes:
    """Replaces the hard-wired sizes of a module of Otter's source, and the place of its tokenizer."""

    def __init__(self, module, kind, folder):
        resampler, block = getattr(module, f"{kind}PerceiverResampler"), getattr(module, f"{kind}GatedCrossAttentionBlock")
        make_resampler = lambda dim, max_num_frames=None: resampler(
            dim=WIDTH, depth=DEPTH, dim_head=HEAD_WIDTH, num_latents=LATENTS, max_num_frames=max_num_frames)
        make_block = lambda dim, dim_visual: block(dim=dim, dim_visual=WIDTH, dim_head=HEAD_WIDTH)
        load = transformers.AutoTokenizer.from_pretrained
        tokenizer = types.SimpleNamespace(from_pretrained=lambda _: load(folder))
        self.module = module
        self.replaced = {f"{kind}PerceiverResampler": make_resampler, f"{kind}GatedCrossAttentionBlock": make_block, "AutoTokenizer": tokenizer}

    def __enter__(self):
        self.kept = {name: getattr(self.module, name) for name in self.replaced}
        for name, value in self.replaced.items():
            setattr(self.module, name, value)

    def __exit__(self, *_):
        for name, value in self.kept.items():
            setattr(self.module, name, value)


def randomise(model, seed, small, only=lambda name: True):
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape, std, mean=0.0: mean + std * torch.randn(shape, generator=generator)
    with torch.no_grad():
        for name, target in sorted(model.named_parameters()):
            last = name.rsplit(".", 1)[-1]
            norm = "norm" in name or "layrnorm" in name or "feed_forward.0" in name
            if norm:
                value = normal(target.shape, 0.1, 1.0 if last == "weight" else 0.0)
            elif last.endswith("gate"):
                value = normal(target.shape, 0.3, 0.6 if last == "attn_gate" else -0.7)
            elif last == "bias":
                value = normal(target.shape, 0.1)
            elif last in ("latents", "frame_embs"):
                value = normal(target.shape, 1.0)
            else:
                # A wide head: the best id leads by more than the last bits of two machines.
                value = normal(target.shape, 2.0 if "lm_head" in name or "wte" in name else 0.2)
            if small and "vision" in name and "embed" in name:
                value *= 0.01
            if only(name):
                target.copy_(value.to(torch.bfloat16))


class Reference:
    def __init__(self, variant, seed):
        video = variant == "video"
        self.folder = HERE / f"otter_{variant}"
        shutil.rmtree(self.folder, ignore_errors=True)
        base = tiny(self.folder, 320, []) if video else neox(self.folder, 300)
        module, kind = (otter, "Otter") if video else (flamingo, "Flamingo")
        text = LLAMA if video else MPT
        config = (OtterConfig if video else FlamingoConfig)(
            vision_config=VISION, text_config=dict(text, _name_or_path="tiny/llama" if video else "tiny/mpt"),
            cross_attn_every_n_layers=2 if video else 1, only_attend_previous=True, use_media_placement_augmentation=False, **(dict(max_num_frames=MAX_FRAMES) if video else {}),
        )
        with Sizes(module, kind, self.folder):
            self.model = getattr(module, f"{kind}ForConditionalGeneration")(config).eval()
        self.save(seed, video)
        self.tokenizer = self.model.text_tokenizer
        assert len(base) < len(self.tokenizer) <= text["vocab_size"]
        self.bos = [self.tokenizer.bos_token_id] if video else []
        self.every = config.cross_attn_every_n_layers
        self.stages = {}
        self.keep(self.model.vision_encoder, "features", lambda out: out[0][:, 1:])
        self.keep(self.model.perceiver, "visual_tokens", lambda out: out[0])
        for i, layer in enumerate(self.model.lang_encoder._get_decoder_layers()):
            if layer.gated_cross_attn_layer is not None:
                self.keep(layer.gated_cross_attn_layer, f"xattn.{i}", lambda out: out[0])

    def save(self, seed, video):
        """Writes the model as save_pretrained does. The trained part of a video model lies in a file of its own besides, and
        the shards hold the values of its beginning."""
        model, folder = self.model, self.folder
        randomise(model, seed, small=not video)
        shards = dict(safe_serialization=False, max_shard_size="70KB" if video else "10GB")
        # Not `model.to(bfloat16)`: it would round the rotary frequencies of the reference too.
        state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
        model.save_pretrained(folder, state_dict=state, **shards)
        if video:
            trained = lambda name: any(part in name for part in ("perceiver", "gated_cross_attn_layer", "embed_tokens", "lm_head"))
            assert {name for name, p in model.named_parameters() if p.requires_grad} == {n for n, _ in model.named_parameters() if trained(n)}
            randomise(model, seed + 1000, small=False, only=trained)
            state = {name: p.detach().to(torch.bfloat16) for name, p in model.named_parameters() if p.requires_grad}
            torch.save(state, folder / "final_weights.pt")
        (folder / "generation_config.json").unlink(missing_ok=True)
        for file in folder.iterdir():
            file.chmod(0o644)

    def keep(self, module, stage, value):
        module.register_forward_hook(lambda _, __, out: self.stages.__setitem__(stage, value(out).clone()))

    def encoded(self, text):
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def ids(self, prompt):
        text = "".join(item if isinstance(item, str) else "<image>" for item in prompt)
        return torch.tensor([self.bos + self.encoded(text)])

    def pixels(self, i):
        return torch.from_numpy(rule.values(f"otter.pixels.{i}", (1, 3, 15, 15), 0.1, 1.9))

    def vision(self, prompt):
        media = [torch.cat([self.pixels(i) for i in item]) for item in prompt if not isinstance(item, str)]
        return torch.stack(media)[None]  # 1, media, frames, 3, side, side

    def forward(self, prompt, ids):
        return self.model(vision_x=self.vision(prompt), lang_x=ids, attention_mask=torch.ones_like(ids)).logits[0]

    def written(self, prompt, ids, beams, penalty, most):
        arguments = dict(
            num_beams=beams, do_sample=False, max_new_tokens=most, use_cache=False, pad_token_id=0,
            bad_words_ids=[[self.model.media_token_id]], return_dict_in_generate=True, output_scores=True,
        )
        if beams > 1:
            arguments["length_penalty"] = penalty
        out = self.model.generate(vision_x=self.vision(prompt), lang_x=ids, attention_mask=torch.ones_like(ids), **arguments)
        new = out.sequences[0, ids.shape[1] :]
        if beams == 1:
            best = torch.stack(out.scores)[:, 0].topk(2, -1).values
            margin = (best[:, 0] - best[:, 1]).min().item()
            assert margin >= MARGIN, f"the best id leads by {margin}"
            assert len(new) == most, f"{len(new)} tokens"
        return new

    def likelihood(self, prompt, ids, answer):
        new = torch.tensor([self.encoded(answer)])
        scores = self.forward(prompt, torch.cat([ids, new], 1)).double().log_softmax(-1)[ids.shape[1] - 1 : -1]
        return scores.gather(1, new[0][:, None]).sum().item()

    def prompt(self, prompt, out, key):
        ids = self.ids(prompt)
        out[f"{key}.ids"] = ids[0].to(torch.int32)
        self.stages = {}
        logits = self.forward(prompt, ids)
        out |= {f"{key}.{stage}": value for stage, value in self.stages.items()} | {f"{key}.logits": logits[-LAST:]}
        for beams, penalty, most in BEAMS:
            out[f"{key}.written.{beams}.{penalty}"] = self.written(prompt, ids, beams, penalty, most).to(torch.int32)
        out[f"{key}.likelihoods"] = torch.tensor([self.likelihood(prompt, ids, answer) for answer in ANSWERS], dtype=torch.float64)


@torch.no_grad()
def golden(variant, seed):
    reference = Reference(variant, seed)
    out = {}
    for name, prompt in (PROMPTS | (VIDEOS if variant == "video" else {})).items():
        reference.prompt(prompt, out, name)
    for i in range(5):
        out[f"pixels.{i}"] = reference.pixels(i)
    path = HERE / f"otter_{variant}.safetensors"
    rule.save(path, out, seed=str(seed), otter="1e7eb9a6fb12ef410082e796c463b99495637b85", prompts=json.dumps(PROMPTS | VIDEOS))
    path.chmod(0o644)


def main():
    for variant, seed in SEEDS.items():
        if sys.argv[1:] and variant not in sys.argv[1:]:
            continue
        while True:
            try:
                golden(variant, seed)
                break
            except AssertionError as e:
                print(variant, seed, e)
                seed += 1
        print(variant, "seed", seed)


if __name__ == "__main__":
    main()
