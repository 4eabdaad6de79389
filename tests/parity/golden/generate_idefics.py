"""Makes the goldens of IDEFICS: python generate_idefics.py [VARIANT] (in this folder, requirements_idefics.txt
installed).

Each variant is a tiny transformers IdeficsForVisionText2Text with seeded random weights, in the layout of
save_pretrained (bf16, shards), with the tokenizer and the preprocessor's configuration:
idefics_base      one gate per block, resampler, QK norms in both, safetensors
idefics_instruct  one gate per channel, no resampler, no QK norms, `<end_of_utterance>`, safetensors
idefics_bin       one gate per channel, resampler without QK norms, embeddings of small variance, .bin

The goldens idefics_{variant}.safetensors hold, for every prompt, the pixels and all stages, and generated tokens.
"""

import json
import pathlib
import shutil
import sys

import numpy as np
import torch
from PIL import Image
from transformers import IdeficsConfig, IdeficsForVisionText2Text, IdeficsImageProcessor, IdeficsProcessor

from transformers.models.idefics.processing_idefics import image_attention_mask_for_packed_input_ids as packed_mask
from transformers.models.idefics.processing_idefics import incremental_to_binary_attention_mask as binary_mask

import rule
from tiny_tokenizer import tiny

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
FAKE, IMAGE, UTTERANCE = "<fake_token_around_image>", "<image>", "<end_of_utterance>"
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
MARGIN = 1e-2
LAST = 4  # positions whose logits are kept
# (width, height, channels) of the pictures; the first has the size of the encoder's input.
PICTURES = [(20, 20, 3), (37, 23, 3), (7, 50, 3), (31, 19, 4), (64, 48, 3)]

BASE = dict(
    vocab_size=320, additional_vocab_size=2, hidden_size=32, intermediate_size=44, num_hidden_layers=4, num_attention_heads=4,
    rms_norm_eps=1e-6, cross_layer_interval=2, qk_layer_norms=True, use_resampler=True, alpha_type="float",
    vision_config=dict(embed_dim=24, image_size=20, patch_size=5, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3),
    perceiver_config=dict(resampler_n_latents=7, resampler_depth=2, resampler_n_heads=3, resampler_head_dim=10, qk_layer_norms_perceiver=True),
)
VARIANTS = {
    "base": BASE,
    "instruct": BASE | dict(
        vocab_size=310, additional_vocab_size=3, hidden_size=30, intermediate_size=50, num_hidden_layers=3, num_attention_heads=3,
        rms_norm_eps=3e-5, cross_layer_interval=1, qk_layer_norms=False, use_resampler=False, alpha_type="vector",
        vision_config=dict(embed_dim=16, image_size=18, patch_size=6, intermediate_size=36, num_hidden_layers=2, num_attention_heads=2,
                           hidden_act="quick_gelu", layer_norm_eps=3e-5),
    ),
    "bin": BASE | dict(
        hidden_size=28, intermediate_size=38, num_hidden_layers=3, num_attention_heads=2, cross_layer_interval=3, alpha_type="vector",
        vision_config=dict(embed_dim=20, image_size=12, patch_size=4, intermediate_size=30, num_hidden_layers=2, num_attention_heads=2),
        perceiver_config=dict(resampler_n_latents=5, resampler_depth=1, resampler_n_heads=2, resampler_head_dim=6),
    ),
}
SEEDS = {"base": 1, "instruct": 2, "bin": 3}
# Pictures by index; text. `</s>` is put in as an id: the text of a user never holds it.
PROMPTS = {
    "blind": ["Two people are"],
    "one": [1, "Describe this image."],
    "late": ["User: what is", 0, "Question: the man Answer:"],
    "three": ["User:", 2, 3, "An image of", 1, "the grass. Answer:"],
    "forget": [1, "a dog", "</s>", "on the beach", 4, "the man"],
}
DIALOGUE = ["User:", 1, "Describe this image.", UTTERANCE, "\nAssistant: An image of two kittens.", UTTERANCE, "\nUser:", 0, "And this?", UTTERANCE, "\nAssistant:"]
ANSWERS = [" a dog", " two kittens in the grass", " No"]
BEAMS = [(1, 1.0, 32), (3, 1.0, 12), (3, 0.0, 10)]  # beams, length penalty, most new tokens


def randomise(model, seed, small):
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape, std, mean=0.0: mean + std * torch.randn(shape, generator=generator)
    with torch.no_grad():
        for name, target in sorted(model.named_parameters()):
            if "norm" in name or ".ln." in name or "layrnorm" in name:
                value = normal(target.shape, 0.1, 1.0 if name.endswith("weight") else 0.0)
            elif "alpha" in name:
                value = normal(target.shape, 0.3, 0.6 if "cross" in name else -0.7)
            elif name.endswith("bias"):
                value = normal(target.shape, 0.1)
            elif "latents" in name:
                value = normal(target.shape, 1.0)
            else:
                # A wide head: the best id leads by more than the last bits of two machines.
                value = normal(target.shape, 2.0 if "lm_head" in name else 0.2)
            if small and ("embed" in name and "lm_head" not in name):
                value *= 0.01
            target.copy_(value.to(torch.bfloat16))


def picture(width, height, channels):
    name = f"picture.{width}x{height}"
    pixels = (rule.uniform(name, height * width * channels) * 127.5 + 127.5).astype(np.uint8).reshape(height, width, channels)
    y, x = np.mgrid[0:height, 0:width]
    pixels[..., 0] = (x * 255 // (width - 1)).astype(np.uint8)
    pixels[..., 1] = np.where((x // 4 + y // 3) % 2, 255, pixels[..., 1])
    return Image.fromarray(pixels)


def checkpoint(variant, seed):
    folder = HERE / f"idefics_{variant}"
    shutil.rmtree(folder, ignore_errors=True)
    added = [FAKE, IMAGE] + ([UTTERANCE] if variant == "instruct" else [])
    tokenizer = tiny(folder, VARIANTS[variant]["vocab_size"], added)
    config = IdeficsConfig(**VARIANTS[variant])
    model = IdeficsForVisionText2Text(config).eval()
    randomise(model, seed, small=variant == "bin")
    images = IdeficsImageProcessor(image_size=config.vision_config.image_size, image_mean=MEAN, image_std=STD)
    images.save_pretrained(folder)
    model.to(torch.bfloat16).save_pretrained(folder, max_shard_size="100KB" if variant != "instruct" else "10GB", safe_serialization=variant != "bin")
    (folder / "generation_config.json").unlink(missing_ok=True)
    for file in folder.iterdir():
        file.chmod(0o644)
    model = IdeficsForVisionText2Text.from_pretrained(folder, torch_dtype=torch.float32).eval()
    return model, tokenizer, IdeficsProcessor(images, tokenizer)


class Reference:
    def __init__(self, variant, seed):
        self.model, self.tokenizer, self.processor = checkpoint(variant, seed)
        self.pictures = [picture(*size) for size in PICTURES]
        self.every = self.model.config.cross_layer_interval
        self.stages = {}
        inner = self.model.model
        self.keep(inner.vision_model, "features", lambda out: out.last_hidden_state)
        if self.model.config.use_resampler:
            self.keep(inner.perceiver_resampler, "visual_tokens", lambda out: out)
        for j, block in enumerate(inner.gated_cross_attn_layers):
            self.keep(block, f"xattn.{j * self.every}", lambda out: out[0][0])

    def keep(self, module, stage, value):
        module.register_forward_hook(lambda _, __, out: self.stages.__setitem__(stage, value(out).clone()))

    def id(self, token):
        return self.tokenizer.convert_tokens_to_ids(token)

    def inputs(self, prompt):
        """The processor's inputs. `</s>` and `<end_of_utterance>` are ids: items between them are texts of their own."""
        inputs = self.processed([item for item in prompt if item != "</s>"])
        if "</s>" in prompt:
            at = prompt.index("</s>")
            first, second = (self.processed(part)["input_ids"] for part in (prompt[:at], prompt[at + 1 :]))
            ids = torch.cat([first, torch.tensor([[self.id("</s>")]]), second[:, 1:]], 1)
            mask = binary_mask(packed_mask(ids, self.tokenizer, "pt")[0], "pt", num_classes=inputs["pixel_values"].shape[1])
            inputs |= dict(input_ids=ids, attention_mask=torch.ones_like(ids), image_attention_mask=mask)
        return inputs

    def processed(self, prompt):
        # The empty text does nothing, but transformers 4.46 takes a list that begins with a picture for pictures only.
        items = ["", *(self.pictures[item] if isinstance(item, int) else item for item in prompt)]
        return dict(self.processor(text=items, add_end_of_utterance_token=False, return_tensors="pt"))

    def written(self, inputs, beams, penalty, most):
        stop = [self.id("</s>")] + ([self.id(UTTERANCE)] if UTTERANCE in self.tokenizer.get_vocab() else [])
        arguments = dict(
            num_beams=beams, do_sample=False, max_new_tokens=most, eos_token_id=stop, pad_token_id=0,
            bad_words_ids=[[self.id(FAKE)], [self.id(IMAGE)]], return_dict_in_generate=True, output_scores=True,
        )
        if beams > 1:
            arguments["length_penalty"] = penalty
        out = self.model.generate(**inputs, **arguments)
        ids = out.sequences[0, inputs["input_ids"].shape[1] :]
        if beams == 1:
            best = torch.stack(out.scores)[:, 0].topk(2, -1).values
            margin = (best[:, 0] - best[:, 1]).min().item()
            assert margin >= MARGIN, f"the best id leads by {margin}"
            assert len(ids) == most, f"{len(ids)} tokens"
            uncached = self.model.generate(**inputs, **arguments, use_cache=False).sequences[0, inputs["input_ids"].shape[1] :]
            assert torch.equal(ids, uncached), "cached and uncached answers differ"
        return ids

    def prompt(self, prompt, out, key):
        inputs = self.inputs(prompt)
        out[f"{key}.ids"] = inputs["input_ids"][0].to(torch.int32)
        images = sum(isinstance(item, int) for item in prompt)
        self.stages = {}
        logits = self.model(**inputs).logits[0]
        kept = [stage for stage in self.stages if images or stage.startswith("xattn")]
        out |= {f"{key}.{stage}": self.stages[stage] for stage in kept} | {f"{key}.logits": logits[-LAST:]}
        for beams, penalty, most in BEAMS:
            out[f"{key}.written.{beams}.{penalty}"] = self.written(inputs, beams, penalty, most).to(torch.int32)
        likelihoods = [self.likelihood(inputs, answer) for answer in ANSWERS]
        out[f"{key}.likelihoods"] = torch.tensor(likelihoods, dtype=torch.float64)

    def likelihood(self, inputs, answer):
        new = self.tokenizer(answer, add_special_tokens=False, return_tensors="pt").input_ids
        ids = torch.cat([inputs["input_ids"], new], 1)
        mask = inputs["image_attention_mask"]
        mask = torch.cat([mask, mask[:, -1:].expand(-1, new.shape[1], -1)], 1)
        logits = self.model(input_ids=ids, pixel_values=inputs["pixel_values"], image_attention_mask=mask).logits[0].double()
        scores = logits.log_softmax(-1)[inputs["input_ids"].shape[1] - 1 : -1]
        return scores.gather(1, new[0][:, None]).sum().item()


@torch.no_grad()
def golden(variant, seed):
    reference = Reference(variant, seed)
    out = {}
    for name, prompt in PROMPTS.items():
        reference.prompt(prompt, out, name)
    if variant == "instruct":
        out["dialogue.ids"] = reference.inputs(DIALOGUE)["input_ids"][0].to(torch.int32)
    for i, image in enumerate(reference.pictures):
        out[f"picture.{i}"] = np.array(image)
        out[f"pixels.{i}"] = reference.processor.image_processor([image])
    path = HERE / f"idefics_{variant}.safetensors"
    rule.save(path, out, seed=str(seed), prompts=json.dumps(PROMPTS))
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
