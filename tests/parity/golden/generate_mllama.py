"""Makes the goldens of Llama 3.2 Vision: tiny_mllama/ (a random checkpoint, saved by transformers), mllama.safetensors
(every stage, generated ids, log-likelihoods), mllama_preprocess.safetensors and mllama_prompts.json:
python generate_mllama.py (in this folder, requirements_mllama.txt installed).

The reference is transformers' MllamaForConditionalGeneration 4.49.0, on the CPU, in f32, with eager attention. It is the
row mask `hf`. Meta's row mask multiplies the output of cross-attention by the mask of rows too: a hook does it here, after
`o_proj`, which has no bias.
"""

import json
import pathlib
import shutil

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessor, PreTrainedTokenizerFast
from transformers.models.mllama import image_processing_mllama, processing_mllama
from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

import rule

torch.set_num_threads(2)
HERE = pathlib.Path(__file__).parent
OUT = HERE / "tiny_mllama"
SIDE, PATCHES, SLOTS = 28, 5, 4
TEXT, IMAGE = 320, 320  # rows of the head; the first extra row of the embedding
SPECIAL = ["<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>",
           "<|eom_id|>", "<|eot_id|>", "<|python_tag|>"]
GRIDS = {"1x1": (1, 1), "1x2": (1, 2), "2x2": (2, 2), "4x1": (4, 1)}
ALL_GRIDS = [(1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (2, 2), (3, 1), (4, 1)]
NEW, BEAM_NEW, BEAMS = 32, 12, 3
LLAMA_3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TEMPLATE = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- set image_ns = namespace(has_images=false) %}
{%- for message in messages %}
    {%- for content in message['content'] %}
        {%- if content['type'] == 'image' %}
            {%- set image_ns.has_images = true %}
        {%- endif %}
    {%- endfor %}
{%- endfor %}
{%- if messages[0]['role'] == 'system' %}
    {%- if image_ns.has_images %}
        {{- raise_exception("Prompting with images is incompatible with system messages.") }}
    {%- endif %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if not image_ns.has_images %}
    {{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
    {{- "Today Date: " + date_string + "\\n\\n" }}
    {{- system_message }}
    {{- "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}
    {%- if message['content'] is string %}
        {{- message['content'] }}
    {%- else %}
        {%- for content in message['content'] %}
            {%- if content['type'] == 'image' %}
                {{- '<|image|>' }}
            {%- elif content['type'] == 'text' %}
                {{- content['text'] }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""


def tokenizer():
    """A byte-level BPE with Llama 3's pre-tokenizer and the layout of its ids: text, special tokens, image token."""
    bpe = Tokenizer(models.BPE(ignore_merges=True))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA_3), "isolated", invert=False),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])
    bpe.decoder = decoders.ByteLevel()
    words = TEMPLATE + "user assistant system What is in this image? Describe the video. The image shows frames at seconds "
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    bpe.train_from_iterator([words], trainer)
    reserved = [f"<|reserved_special_token_{i}|>" for i in range(TEXT - bpe.get_vocab_size() - len(SPECIAL))]
    bpe.add_special_tokens([AddedToken(t, special=True) for t in SPECIAL + reserved + ["<|image|>"]])
    assert bpe.token_to_id("<|image|>") == IMAGE
    return PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token=SPECIAL[0], eos_token="<|eot_id|>", pad_token=SPECIAL[2],
                                   chat_template=TEMPLATE, clean_up_tokenization_spaces=False)


def config(tok):
    ids = tok.convert_tokens_to_ids
    vision = MllamaVisionConfig(
        hidden_size=32, attention_heads=4, num_hidden_layers=4, num_global_layers=2, intermediate_size=56, image_size=SIDE,
        patch_size=14, max_num_tiles=SLOTS, intermediate_layers_indices=[1, 3], vision_output_dim=96, norm_eps=2e-3)
    text = MllamaTextConfig(
        vocab_size=TEXT, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=6,
        cross_attention_layers=[1, 4], intermediate_size=88, rope_theta=500000.0, rms_norm_eps=4e-4,
        rope_scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 8192},
        max_position_embeddings=512, bos_token_id=ids(SPECIAL[0]), eos_token_id=[ids("<|end_of_text|>"), ids("<|eom_id|>"), ids("<|eot_id|>")],
        pad_token_id=ids(SPECIAL[2]), tie_word_embeddings=False)
    return MllamaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE)


def fill(model):
    """Open gates, different per layer; random norms and biases; weights of std 0.2. In bf16, as the published files."""
    torch.manual_seed(17)
    gates = iter(np.linspace(0.9, 0.35, 40))
    with torch.no_grad():
        for name, p in model.named_parameters():
            last = name.rsplit(".", 1)[-1]
            if "gate" in last:
                value = torch.full_like(p, float(next(gates)) * (-1 if "mlp" in last or "ffn" in last else 1))
            elif "norm" in name and last == "weight":
                value = 1 + 0.1 * torch.randn_like(p)
            elif last == "bias":
                value = 0.1 * torch.randn_like(p)
            elif "tile" in name or "embed" in name or "embedding" in last:
                value = 0.5 * torch.randn_like(p)
            elif "lm_head" in name:
                value = 0.8 * torch.randn_like(p)
            else:
                value = 0.2 * torch.randn_like(p)
            if "tile" in name and p.dim() == 2:
                value[0] = 0
            if "embed_tokens" in name:
                value[200:232] *= 0.01
            p.copy_(value.to(torch.bfloat16).float())


def pixels(case, i, grid):
    n = grid[0] * grid[1]
    x = torch.zeros(SLOTS, 3, SIDE, SIDE)
    x[:n] = torch.from_numpy(rule.values(f"pixels.{case}.{i}", (n, 3, SIDE, SIDE), 0.1, 1.7))
    return x


def inputs(case, ids, grids):
    out = {"input_ids": torch.tensor([ids]), "attention_mask": torch.ones(1, len(ids), dtype=torch.long)}
    if grids:
        spans = processing_mllama.get_cross_attention_token_mask(ids, IMAGE)
        tiles = [[a * b for a, b in grids]]
        mask = processing_mllama.convert_sparse_cross_attention_mask_to_dense([spans], tiles, SLOTS, len(ids))
        out |= {
            "pixel_values": torch.stack([pixels(case, i, g) for i, g in enumerate(grids)])[None],
            "aspect_ratio_ids": torch.tensor([[ALL_GRIDS.index(g) + 1 for g in grids]]),
            "aspect_ratio_mask": torch.tensor(image_processing_mllama.build_aspect_ratio_mask([grids], SLOTS)),
            "cross_attention_mask": torch.tensor(mask),
        }
    return out


class Rows:
    """Meta's row mask, switched on and off; and the states after the cross-attention layers."""

    def __init__(self, model):
        self.meta, self.states, self.mask = False, {}, None
        layers = model.language_model.model.layers
        for i in model.config.text_config.cross_attention_layers:
            layers[i].register_forward_pre_hook(self.keep_mask, with_kwargs=True)
            layers[i].cross_attn.register_forward_hook(self.multiply)
            layers[i].register_forward_hook(lambda m, a, out, i=i: self.states.__setitem__(f"xattn.{i}", out[0][0].clone()))

    def keep_mask(self, module, args, kwargs):
        self.mask = kwargs["full_text_row_masked_out_mask"]

    def multiply(self, module, args, out):
        return (out[0] * self.mask[:, 0], *out[1:]) if self.meta and self.mask is not None else None


def answer(model, batch, **more):
    kept = model.generate(**batch, do_sample=False, max_new_tokens=more.pop("new"), eos_token_id=None, use_cache=True,
                          suppress_tokens=None, **more)
    return kept[0, batch["input_ids"].shape[1]:].tolist()


def extended(batch, ids):
    """The inputs with generated ids: they copy the last row of the cross-attention mask."""
    n = len(ids)
    out = dict(batch, input_ids=torch.cat([batch["input_ids"], torch.tensor([ids])], 1),
               attention_mask=torch.ones(1, batch["input_ids"].shape[1] + n, dtype=torch.long))
    if "cross_attention_mask" in batch:
        mask = batch["cross_attention_mask"]
        out["cross_attention_mask"] = torch.cat([mask, mask[:, -1:].expand(-1, n, -1, -1)], 1)
    return out


def cases(rng):
    """Ids and grids of each case; None stands for a random text id, -1 for the image token, -2 for a small embedding."""
    bos, header, end = 300, 303, 304
    g = GRIDS
    forms = {
        "text": ([bos, header, None, end, None, None, None], []),
        "first": ([-1, bos, None, None, None], [g["1x1"]]),
        "leak": ([bos, header, None, end, None, -1, None, None, None], [g["1x2"]]),
        "adjacent": ([bos, None, -1, -1, None, None], [g["2x2"], g["4x1"]]),
        "separated": ([bos, -1, None, None, -1, None, None], [g["1x1"], g["1x2"]]),
        "three": ([bos, None, -1, -1, None, -1, None, None], [g["4x1"], g["1x1"], g["2x2"]]),
        "small": ([bos, -2, -2, -1, -2, -2, None], [g["2x2"]]),
    }
    def pick(x):
        return IMAGE if x == -1 else int(rng.integers(200, 232)) if x == -2 else int(rng.integers(0, 300)) if x is None else x
    return {name: ([pick(x) for x in ids], grids) for name, (ids, grids) in forms.items()}


def generate(model, rows, out, name, ids, grids):
    """Stages, greedy and beam ids in both row masks; False if a choice was too close."""
    found = {}
    for mode in ("hf", "meta"):
        rows.meta = mode == "meta"
        batch = inputs(name, ids, grids)
        rows.states = {}
        logits = model(**batch).logits[0].clone()
        stages = dict(rows.states, logits=logits)
        greedy = answer(model, batch, new=NEW, num_beams=1)
        whole = model(**extended(batch, greedy)).logits[0][len(ids) - 1:-1]
        top = whole.topk(2, -1).values
        if not (whole.argmax(-1).tolist() == greedy and (top[:, 0] - top[:, 1]).min() >= 1e-2):
            return False
        beams = answer(model, batch, new=BEAM_NEW, num_beams=BEAMS, length_penalty=1.0, early_stopping=False)
        weight = model.language_model.lm_head.weight
        kept = weight.data.clone()
        for seed in range(3):  # the choice of the beam search survives a small change
            torch.manual_seed(seed)
            weight.data = kept * (1 + 1e-4 * torch.randn_like(kept))
            same = answer(model, batch, new=BEAM_NEW, num_beams=BEAMS, length_penalty=1.0, early_stopping=False) == beams
            weight.data = kept
            if not same:
                return False
        scores = whole.log_softmax(-1).gather(1, torch.tensor(greedy)[:, None]).sum()
        stages |= {"greedy": torch.tensor(greedy, dtype=torch.uint32), "beams": torch.tensor(beams, dtype=torch.uint32),
                   "log_likelihood": scores.reshape(1)}
        found |= {f"{name}.{mode}.{k}": v for k, v in stages.items()}
    found[f"{name}.ids"] = torch.tensor(ids, dtype=torch.uint32)
    found[f"{name}.grids"] = torch.tensor(grids, dtype=torch.uint32).reshape(-1, 2)
    out |= found
    return True


def tower(model, out):
    """Every stage of the vision encoder, one picture per grid."""
    vision, kept = model.vision_model, {}
    def keep(name):
        return lambda m, a, o: kept.__setitem__(name, (o[0] if isinstance(o, tuple) else o).clone())
    hooks = [vision.pre_tile_positional_embedding.register_forward_hook(keep("patches")),
             vision.gated_positional_embedding.register_forward_hook(keep("embedded")),
             vision.layernorm_pre.register_forward_hook(keep("normed")),
             vision.post_tile_positional_embedding.register_forward_hook(keep("post")),
             model.multi_modal_projector.register_forward_hook(keep("tokens"))]
    for part, blocks in (("local", vision.transformer.layers), ("global", vision.global_transformer.layers)):
        hooks += [block.register_forward_hook(keep(f"{part}.{i}")) for i, block in enumerate(blocks)]
    for name, grid in GRIDS.items():
        kept.clear()
        batch = inputs("tower", [300, IMAGE], [grid])
        features = vision(**{k: batch[k] for k in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}).last_hidden_state
        model.multi_modal_projector(features)
        kept["features"] = features.reshape(-1, features.shape[-1])
        for stage, value in kept.items():
            out[f"tower.{name}.{stage}"] = value.reshape(-1, value.shape[-1])
    for hook in hooks:
        hook.remove()


def picture(width, height, channels):
    x, y, c = np.meshgrid(np.arange(width), np.arange(height), np.arange(channels), indexing="xy")
    return ((x * 7 + y * 13 + c * 50 + (x * y) % 31 * 5 + (x // 9 + y // 5) % 2 * 90) % 256).astype(np.uint8)


def processor():
    """4.49.0 fails where a side shrinks to 0; later versions make it 1, and so does this patch."""
    original = image_processing_mllama.get_image_size_fit_to_canvas
    def at_least_one(**kwargs):
        return tuple(max(int(side), 1) for side in original(**kwargs))
    image_processing_mllama.get_image_size_fit_to_canvas = at_least_one
    return MllamaImageProcessor(do_convert_rgb=True, do_resize=True, size={"height": SIDE, "width": SIDE}, do_rescale=True,
                                do_normalize=True, image_mean=[0.48145466, 0.4578275, 0.40821073],
                                image_std=[0.26862954, 0.26130258, 0.27577711], do_pad=True, max_image_tiles=SLOTS)


def preprocess(images):
    out = {}
    for width, height in ((28, 28), (29, 28), (100, 30), (30, 100), (1, 500), (500, 1), (320, 240), (57, 200), (60, 61)):
        image = picture(width, height, 3)
        # The processor takes an image with a side of 1 for grey, unless its channels come first.
        image = image.transpose(2, 0, 1) if 1 in (width, height) else Image.fromarray(image)
        kept = images(image, return_tensors="np")
        out |= {f"{width}x{height}.pixels": kept["pixel_values"][0, 0], f"{width}x{height}.grid": np.array(ALL_GRIDS[kept["aspect_ratio_ids"][0, 0] - 1], np.uint32)}
    image = Image.fromarray(picture(100, 30, 3))
    bicubic = images(image, resample=Image.Resampling.BICUBIC, return_tensors="np")["pixel_values"][0, 0]
    print("bicubic: pixels differ by", np.abs(bicubic - out["100x30.pixels"]).max())
    assert np.abs(bicubic - out["100x30.pixels"]).max() > 0.01
    kept = images(Image.fromarray(picture(40, 25, 4), "RGBA"), return_tensors="np")
    out |= {"rgba.pixels": kept["pixel_values"][0, 0]}
    # Canvas of many sizes, at the published sides.
    rng = np.random.default_rng(3)
    table = []
    for side in (28, 448, 560):
        for _ in range(400):
            w, h = (int(x) for x in np.exp(rng.uniform(0, np.log(5000), 2)) + 1)
            canvas = image_processing_mllama.get_optimal_tiled_canvas(h, w, SLOTS, side)
            size = image_processing_mllama.get_image_size_fit_to_canvas(image_height=h, image_width=w, canvas_height=canvas[0], canvas_width=canvas[1], tile_size=side)
            table.append([side, w, h, canvas[0] // side, canvas[1] // side, size[1], size[0]])
        exact = 0  # sizes that arithmetic in f32 would round otherwise
        while exact < 10:
            w, h = (int(x) for x in rng.integers(side, 4000, 2))
            canvas = image_processing_mllama.get_optimal_tiled_canvas(h, w, SLOTS, side)
            size = image_processing_mllama.get_image_size_fit_to_canvas(image_height=h, image_width=w, canvas_height=canvas[0], canvas_width=canvas[1], tile_size=side)
            tw, th = np.clip(w, side, canvas[1]), np.clip(h, side, canvas[0])
            x, y = np.float32(tw) / np.float32(w), np.float32(th) / np.float32(h)
            narrow = (int(np.floor(np.float32(h) * x)), tw) if x < y else (th, int(np.floor(np.float32(w) * y)))
            if tuple(narrow) != tuple(size):
                exact += 1
                table.append([side, w, h, canvas[0] // side, canvas[1] // side, size[1], size[0]])
        for k in range(1, 5):  # equal scales
            for w, h in ((side * k, side), (side, side * k), (side * k, side * k), (side * k + 1, side)):
                canvas = image_processing_mllama.get_optimal_tiled_canvas(h, w, SLOTS, side)
                size = image_processing_mllama.get_image_size_fit_to_canvas(image_height=h, image_width=w, canvas_height=canvas[0], canvas_width=canvas[1], tile_size=side)
                table.append([side, w, h, canvas[0] // side, canvas[1] // side, size[1], size[0]])
    out["canvas"] = np.array(table, np.uint32)
    return out


def variants(model, rows, out):
    """Wrong models, one mistake each: the golden must differ from all of them. Prints max|a-b| / rms(b) of features or logits."""
    from transformers.models.mllama import modeling_mllama as code
    vision, text = model.vision_model, model.language_model.model
    rows.meta = True

    def error(of):
        if of == "features":
            batch = inputs("tower", [300, IMAGE], [(1, 2)])
            got = vision(**{k: batch[k] for k in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}).last_hidden_state
            want = out["tower.1x2.features"]
            got = got.reshape(want.shape)
        else:
            ids, grids = out["three.ids"].tolist(), [tuple(g) for g in out["three.grids"].tolist()]
            got, want = model(**inputs("three", ids, grids)).logits[0][-2:], out["three.meta.logits"][-2:]
        return float((got - want).abs().max() / want.pow(2).mean().sqrt())

    def swapped(owner, name, value, of):
        kept = getattr(owner, name)
        setattr(owner, name, value(kept))
        found = error(of)
        setattr(owner, name, kept)
        return found

    def gated(layer, hidden_state, attention_mask=None, output_attentions=None):
        x = hidden_state
        y = layer.self_attn(layer.input_layernorm(x), attention_mask=attention_mask)[0]
        x = x + (layer.gate_attn * y.tanh() if layer.is_gated else y)
        y = layer.mlp(layer.post_attention_layernorm(x))
        return (x + (layer.gate_ffn * y.tanh() if layer.is_gated else y),)

    def bare_gates(layer, hidden_state, attention_mask=None, output_attentions=None):
        x = hidden_state
        y = layer.self_attn(layer.input_layernorm(x), attention_mask=attention_mask)[0]
        x = x + (layer.gate_attn * y if layer.is_gated else y)
        y = layer.mlp(layer.post_attention_layernorm(x))
        return (x + (layer.gate_ffn * y if layer.is_gated else y),)

    def all_invalid(aspect_ratio_mask, num_patches, target_length, dtype):
        mask = aspect_ratio_mask
        keys = mask[:, :, None].repeat(1, 1, target_length).to(dtype)
        keys[:, :, num_patches:] = 0
        return (1 - keys.reshape(mask.shape[0], 1, 1, -1)) * torch.finfo(dtype).min

    def stack_with(change):
        def stacked(states, dim):
            return change(torch.stack(states, dim=dim))
        return type("torch_like", (), {"__getattr__": lambda s, n: stacked if n == "stack" else getattr(torch, n)})()

    def features_with(change):
        return swapped(code, "torch", lambda _: stack_with(change), "features")

    plain = 1.0 / 500000.0 ** (torch.arange(0, 16, 2).float() / 16)

    def rotated(norm):
        def run(x):
            x = norm(x)
            angles = torch.outer(torch.arange(x.shape[-2]).float(), plain)
            cos, sin = torch.cat([angles, angles], -1).cos(), torch.cat([angles, angles], -1).sin()
            return x * cos + code.rotate_half(x) * sin
        return run

    def in_cross(of):
        blocks = [text.layers[i].cross_attn for i in (1, 4)]
        kept = [(b.q_norm, b.k_norm) for b in blocks]
        for b in blocks:
            q, k = b.q_norm, b.k_norm
            del b.q_norm, b.k_norm
            b.q_norm, b.k_norm = of(q, k)
        found = error("logits")
        for b, (q, k) in zip(blocks, kept):
            if "q_norm" in b.__dict__:
                del b.q_norm
            if "k_norm" in b.__dict__:
                del b.k_norm
            b.q_norm, b.k_norm = q, k
        return found

    class Bare(torch.nn.Module):
        def forward(self, x):
            return x

    gelu = torch.nn.GELU(approximate="tanh")
    def tanh_gelu():
        layers = [*vision.transformer.layers, *vision.global_transformer.layers]
        kept = [layer.mlp.activation_fn for layer in layers]
        for layer in layers:
            layer.mlp.activation_fn = gelu
        found = error("features")
        for layer, old in zip(layers, kept):
            layer.mlp.activation_fn = old
        return found

    layer = code.MllamaVisionEncoderLayer
    table = {
        "unchanged, features": error("features"),
        "unchanged, logits": error("logits"),
        "gate * tanh(x)": swapped(layer, "forward", lambda _: gated, "features"),
        "gate without tanh": swapped(layer, "forward", lambda _: bare_gates, "features"),
        "intermediates concatenated": features_with(lambda x: x.transpose(-1, -2).reshape(x.shape)),
        "intermediates a layer later": swapped(vision, "intermediate_layers_indices", lambda _: [2, 4], "features"),
        "layernorm_post on intermediates": features_with(lambda x: vision.layernorm_post(x.transpose(-1, -2)).transpose(-1, -2)),
        "mask blocks valid to invalid": swapped(code, "_prepare_aspect_ratio_attention_mask", lambda _: all_invalid, "features"),
        "tanh GELU": tanh_gelu(),
        "k_norm skipped": in_cross(lambda q, k: (q, Bare())),
        "rope in cross layers": in_cross(lambda q, k: (rotated(q), rotated(k))),
        "rope scaling off": swapped(text.rotary_emb, "inv_freq", lambda _: plain, "logits"),
    }
    rows.meta = False
    table["row mask hf for meta"] = error("logits")
    for what, found in table.items():
        print(f"{what:<36} {found:.1e}")
        assert found < 1e-6 if what.startswith("unchanged") else found > 1e-3, what


def prompts(tok):
    """Token ids of chats through the template, with the date pinned."""
    def chat(messages, **more):
        return tok.apply_chat_template(messages, add_generation_prompt=True, date_string="26 Jul 2024", tokenize=True, **more)
    image, text = {"type": "image"}, lambda t: {"type": "text", "text": t}
    cases = []
    for question in ("What is in this image?", "Describe the video.", "é 12345 \n\n two"):
        for images in (0, 1, 2):
            messages = [{"role": "user", "content": [image] * images + [text(question)]}]
            cases.append({"question": question, "images": images, "ids": chat(messages)})
    return {"cases": cases}


@torch.no_grad()
def main():
    shutil.rmtree(OUT, ignore_errors=True)
    tok = tokenizer()
    tok.save_pretrained(OUT)
    (OUT / "special_tokens_map.json").unlink(missing_ok=True)
    images = processor()
    images.save_pretrained(OUT)
    rule.save(HERE / "mllama_preprocess.safetensors", preprocess(images), generator=pathlib.Path(__file__).name)
    (HERE / "mllama_prompts.json").write_text(json.dumps(prompts(tok), ensure_ascii=False) + "\n")
    model = MllamaForConditionalGeneration._from_config(config(tok), attn_implementation="eager").eval()
    fill(model)
    model.generation_config.eos_token_id = model.config.text_config.eos_token_id
    model.generation_config.pad_token_id = tok.pad_token_id
    model.to(torch.bfloat16).save_pretrained(OUT)
    model = MllamaForConditionalGeneration.from_pretrained(OUT, torch_dtype=torch.float32, attn_implementation="eager").eval()
    assert model.config._attn_implementation == "eager"
    rows, out = Rows(model), {}
    tower(model, out)
    missing = set(cases(np.random.default_rng(0)))
    for seed in range(400):
        for name, (ids, grids) in cases(np.random.default_rng(seed)).items():
            if name in missing and generate(model, rows, out, name, ids, grids):
                missing.remove(name)
                print(name, seed, ids, out[f"{name}.meta.greedy"].tolist())
        if not missing:
            break
    assert not missing, missing
    for name in ("leak", "adjacent", "separated", "three", "small"):
        gap = (out[f"{name}.hf.logits"] - out[f"{name}.meta.logits"]).abs().max()
        assert gap > 1e-2, (name, gap)
    variants(model, rows, out)
    # Logits are the largest part: the last two rows of each prompt, and the sums of all.
    for key in [k for k in out if k.endswith(".logits")]:
        out[key.replace(".logits", ".log_sum_exp")] = out[key].logsumexp(-1)
        out[key] = out[key][-2:]
    rule.save(HERE / "mllama.safetensors", {k: v.contiguous() for k, v in out.items()}, generator=pathlib.Path(__file__).name)


if __name__ == "__main__":
    main()
