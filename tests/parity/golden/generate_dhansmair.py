"""Makes the golden of dhansmair's flamingo-mini: python generate_dhansmair.py (in this folder, requirements_dhansmair.txt
installed, and the package flamingo_mini of its repository on the path).

dhansmair/              a tiny FlamingoModel over OPT and clip/hugging_face/, as save_pretrained writes it, and our config.json
dhansmair.safetensors   for every prompt, the pixels and all stages, and generated tokens
"""

import functools
import json
import os
import pathlib
import shutil
import tempfile

import numpy as np
import torch
from flamingo_mini import FlamingoConfig, FlamingoModel, FlamingoProcessor
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM, PreTrainedTokenizerFast

import rule
from generate_open_flamingo import ANSWERS, BEAMS, MARGIN, PICTURES, picture
from tiny_tokenizer import CORPUS

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "dhansmair"
# Text, frames of each medium.
PROMPTS = {
    "blind": ("Two people are", []),
    "one": ("<image>", [[1]]),
    "late": ("the man<image>on", [[0]]),
    "three": ("<image>a dog<EOC><image>two kittens<EOC><image>", [[2], [3], [1]]),
    "video": ("<image>a", [[2, 3, 4]]),
}


def language(folder):
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([*CORPUS, " < < < < < <"], trainers.BpeTrainer(
        vocab_size=275, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[("</s>", 2)])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>").save_pretrained(folder)
    # OPT pads its vocabulary.
    model = OPTForCausalLM(OPTConfig(vocab_size=280, hidden_size=20, ffn_dim=28, num_hidden_layers=4, num_attention_heads=2,
                                     max_position_embeddings=100, word_embed_proj_dim=20))
    model.to(torch.bfloat16).save_pretrained(folder)
    (folder / "generation_config.json").unlink()


def randomise(model, seed):
    generator = torch.Generator().manual_seed(seed)
    normal = lambda shape, std, mean=0.0: mean + std * torch.randn(shape, generator=generator)
    for name, p in sorted(model.named_parameters()):
        if "vision_encoder" in name:
            continue
        if "alpha" in name:
            p.data = normal(p.shape, 0.3, 0.6 if "attn" in name else -0.7)
        elif p.dim() == 1:
            p.data = normal(p.shape, 0.1, 1.0 if name.endswith("weight") else 0.0)
        elif "latents" in name or "time_pos_emb" in name:
            p.data = normal(p.shape, 0.05 if "latents" in name else 0.5)
        else:
            p.data = normal(p.shape, 0.6 if "embed_tokens" in name else 0.2)


class Reference:
    def __init__(self, seed):
        config = FlamingoConfig(
            lm="facebook/opt-tiny", clip_model_type="openai/clip-tiny", dim=20, dim_visual=24, xattn_every=2, xattn_dim_head=3, xattn_heads=4,
            xattn_ff_mult=2, xattn_act="sqrelu", resampler_depth=2, resampler_dim_head=5, resampler_heads=3, resampler_num_latents=7,
            resampler_num_time_embeds=4, resampler_ff_mult=2, resampler_act="gelu")
        self.model = FlamingoModel(config).eval()
        randomise(self.model, seed)
        # Today's generate() passes an argument that the original, of transformers 4.25, does not take.
        prepare = self.model.prepare_inputs_for_generation
        self.model.prepare_inputs_for_generation = functools.wraps(prepare)(lambda *a, cache_position=None, **k: prepare(*a, **k))
        self.processor = FlamingoProcessor(config)
        self.tokenizer = self.processor.tokenizer
        # The original counts a marker of one id twice.
        assert len(set(self.processor.leq_ids)) == 2
        self.pixels = [self.processor.preprocess_images(picture(*size))["pixel_values"] for size in PICTURES]
        self.markers = self.tokenizer.encode("<image>", add_special_tokens=False)
        flamingo = self.model.flamingo
        self.stages = {}
        self.keep(flamingo.vision_encoder, "features", lambda out: out.last_hidden_state)
        self.keep(flamingo.resampler, "visual_tokens", lambda out: out)
        for i, layer in enumerate(flamingo.lm.decoder.layers):
            if hasattr(layer, "xattn_block"):
                self.keep(layer.xattn_block, f"xattn.{i}", lambda out: out[0][0])

    def keep(self, module, stage, value):
        module.register_forward_hook(lambda _, __, out: self.stages.__setitem__(stage, value(out).clone()))

    def inputs(self, text, media):
        ids, locations, mask = self.processor.encode_text(text)
        pixels = torch.stack([torch.cat([self.pixels[i] for i in frames]) for frames in media])[None] if media else None
        return dict(input_ids=ids, media_locations=locations, attention_mask=mask, pixel_values=pixels)

    def longer(self, inputs, more):
        """The inputs with the ids `more` after them. No id of an answer marks a medium."""
        more = torch.tensor([more], dtype=torch.long)
        join = lambda a, b: torch.cat([a, b.to(a.dtype)], 1)
        return inputs | dict(
            input_ids=join(inputs["input_ids"], more), media_locations=join(inputs["media_locations"], torch.zeros_like(more)),
            attention_mask=join(inputs["attention_mask"], torch.ones_like(more)))

    def written(self, inputs, beams, penalty, most):
        start, stop = inputs["input_ids"].shape[1], [2, self.tokenizer.convert_tokens_to_ids("<EOC>")]
        arguments = dict(num_beams=beams, do_sample=False, max_new_tokens=most, eos_token_id=stop, pad_token_id=1, use_cache=True,
                         suppress_tokens=self.processor.leq_ids)
        if beams > 1:
            arguments["length_penalty"] = penalty
        given = {k: v for k, v in inputs.items() if v is not None and k != "input_ids"}
        out = self.model.generate(inputs["input_ids"], **given, **arguments)[0, start:]
        if beams == 1:
            written = []
            for _ in range(most):
                scores = self.model(**self.longer(inputs, written)).logits[0, -1]
                scores[self.processor.leq_ids] = -torch.inf
                best = scores.topk(2)
                if (best.values[0] - best.values[1]).item() < MARGIN or best.indices[0].item() in stop:
                    return None
                written.append(best.indices[0].item())
            assert written == out.tolist(), "cached and uncached answers differ"
        return out

    def likelihood(self, inputs, answer):
        answer = self.tokenizer.encode(answer, add_special_tokens=False)
        logits = self.model(**self.longer(inputs, answer)).logits[0].double().log_softmax(-1)
        return logits[-len(answer) - 1:-1].gather(1, torch.tensor(answer)[:, None]).sum().item()


def golden(reference):
    """All stages and answers, or None if a choice of a greedy answer is too close."""
    out = {}
    for i, size in enumerate(PICTURES):
        out[f"picture.{i}"] = torch.from_numpy(np.array(picture(*size)))
        out[f"pixels.{i}"] = reference.pixels[i]
    for name, (text, media) in PROMPTS.items():
        inputs = reference.inputs(text, media)
        out[f"{name}.ids"] = inputs["input_ids"][0].to(torch.int32)
        reference.stages = {}
        out[f"{name}.logits"] = reference.model(**inputs).logits[0]
        out |= {f"{name}.{stage}": value for stage, value in reference.stages.items()}
        for beams, penalty, most in BEAMS:
            written = reference.written(inputs, beams, penalty, most)
            if written is None:
                return None
            out[f"{name}.written.{beams}.{penalty}"] = written.to(torch.int32)
        out[f"{name}.likelihoods"] = torch.tensor([reference.likelihood(inputs, a) for a in ANSWERS], dtype=torch.float64)
    return out


@torch.no_grad()
def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    language(FOLDER / "language")
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        # The original takes names of the hub; folders of these names come first.
        os.chdir(folder)
        os.makedirs("facebook"), os.makedirs("openai")
        for name, target in (("facebook/opt-tiny", FOLDER / "language"), ("facebook/opt-30b", FOLDER / "language"), ("openai/clip-tiny", HERE / "clip" / "hugging_face")):
            os.symlink(target.resolve(), name)
        for seed in range(200):
            reference = Reference(seed)
            out = golden(reference)
            if out is not None:
                break
        else:
            raise SystemExit("no seed gives clear answers")
        os.chdir(here)
    reference.model.save_pretrained(FOLDER / "checkpoint", safe_serialization=False)
    (FOLDER / "checkpoint" / "generation_config.json").unlink(missing_ok=True)
    (FOLDER / "config.json").write_text(json.dumps({
        "schema": "dhansmair/1", "name": "tiny-dhansmair", "checkpoint": "checkpoint", "language": "language", "vision": "../clip/hugging_face",
    }, indent=2) + "\n")
    rule.save(HERE / "dhansmair.safetensors", {k: v.contiguous() for k, v in out.items()},
              flamingo_mini="8a8feae", seed=str(seed), generator=pathlib.Path(__file__).name)
    for file in [*FOLDER.rglob("*"), HERE / "dhansmair.safetensors"]:
        if file.is_file():
            file.chmod(0o644)
    print("seed", seed)


if __name__ == "__main__":
    main()
