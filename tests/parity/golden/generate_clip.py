"""Makes the goldens of CLIP's vision transformer: python generate_clip.py (in this folder, requirements_clip.txt installed).

clip/hugging_face/   a whole tiny CLIP, as transformers saves it (model.safetensors)
clip/open_clip/      a whole tiny CLIP, as open_clip saves it (open_clip_pytorch_model.bin, open_clip_config.json)
clip.safetensors     every stage of both with both activations, and outputs of wrong variants

The embeddings are small, so that the epsilon of the first normalisation shows.
"""

import json
import pathlib
import shutil

import open_clip
import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPVisionModel
from transformers.activations import ACT2FN

import rule

torch.set_num_threads(1)
HERE = pathlib.Path(__file__).parent
FOLDER = HERE / "clip"
SIDE, PATCH, WIDTH, LAYERS, HEADS, HIDDEN = 15, 5, 24, 3, 4, 56
ACTIVATIONS = ("quick_gelu", "gelu")


def randomise(module, seed):
    """Matrices of deviation 0.2, gains about 1, biases about 0; small embeddings."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in module.named_parameters():
        noise = torch.randn(p.shape, generator=generator)
        last = name.rsplit(".", 1)[-1]
        if "embedding" in name or "conv1" in name:
            p.data = 0.02 * noise
        elif "norm" in name or "ln_" in name:
            p.data = (1.0 if last == "weight" else 0.0) + 0.3 * noise
        else:
            p.data = 0.2 * noise


def pixels():
    return torch.from_numpy(rule.values("clip.pixels", (2, 3, SIDE, SIDE), 0.1, 1.9))


def hugging_face():
    text = dict(hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, vocab_size=11, max_position_embeddings=6)
    vision = dict(hidden_size=WIDTH, intermediate_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
                  image_size=SIDE, patch_size=PATCH, hidden_act="quick_gelu")
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=10)).eval()
    randomise(model, 7)
    model.save_pretrained(FOLDER / "hugging_face", safe_serialization=True)
    (FOLDER / "hugging_face" / "preprocessor_config.json").write_text(json.dumps({
        "crop_size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True, "resample": 3, "size": SIDE,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
        "feature_extractor_type": "CLIPFeatureExtractor",
    }, indent=2) + "\n")
    vision = CLIPVisionModel.from_pretrained(FOLDER / "hugging_face").eval()
    out = {}

    def run(key):
        states = vision(pixels(), output_hidden_states=True)
        out[f"{key}.embeddings"] = states.hidden_states[0]
        out.update({f"{key}.layers.{i}": x for i, x in enumerate(states.hidden_states[1:])})
        assert torch.equal(states.hidden_states[-1], states.last_hidden_state)

    def activate(name):
        for layer in vision.vision_model.encoder.layers:
            layer.mlp.activation_fn = ACT2FN[name]

    for name in ACTIVATIONS:
        activate(name)
        run(f"hugging_face.{name}")
    activate("gelu_pytorch_tanh")
    wrong = {"wrong.tanh_gelu": vision(pixels()).last_hidden_state}
    activate("gelu")
    wrong["wrong.post_layernorm"] = vision.vision_model.post_layernorm(vision(pixels()).last_hidden_state)
    for module in vision.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 2e-5
    wrong["wrong.eps"] = vision(pixels()).last_hidden_state
    return out | wrong


def openclip():
    vision = dict(image_size=SIDE, layers=LAYERS, width=WIDTH, head_width=WIDTH // HEADS, patch_size=PATCH, mlp_ratio=HIDDEN / WIDTH)
    text = dict(context_length=6, vocab_size=11, width=8, heads=2, layers=1)
    folder = FOLDER / "open_clip"
    folder.mkdir(parents=True)
    out = {}
    for name in ACTIVATIONS:
        cfg = dict(embed_dim=10, vision_cfg=vision, text_cfg=text, quick_gelu=name == "quick_gelu")
        model = open_clip.CLIP(cfg["embed_dim"], open_clip.CLIPVisionCfg(**vision), open_clip.CLIPTextCfg(**text), quick_gelu=cfg["quick_gelu"]).eval()
        randomise(model, 8)
        if name == "quick_gelu":
            torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
            preprocess = dict(mean=open_clip.OPENAI_DATASET_MEAN, std=open_clip.OPENAI_DATASET_STD)
            (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": cfg, "preprocess_cfg": preprocess}, indent=2) + "\n")
        visual, key = model.visual, f"open_clip.{name}"
        visual.output_tokens = True
        seen = {}
        visual.ln_pre.register_forward_hook(lambda m, i, o: seen.update({f"{key}.embeddings": o.clone()}))
        for i, block in enumerate(visual.transformer.resblocks):
            block.register_forward_hook(lambda m, i, o, n=i: seen.update({f"{key}.layers.{n}": o.transpose(0, 1).clone()}))
        tokens = visual(pixels())[1]
        # Version 2.23 and later apply ln_post to the patch tokens; released checkpoints were trained without.
        assert torch.equal(tokens, seen[f"{key}.layers.{LAYERS - 1}"][:, 1:])
        out |= seen
    return out


@torch.no_grad()
def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    out = hugging_face() | openclip()
    rule.save(HERE / "clip.safetensors", {k: v.contiguous() for k, v in out.items()},
              open_clip=open_clip.version.__version__, generator=pathlib.Path(__file__).name)


if __name__ == "__main__":
    main()
