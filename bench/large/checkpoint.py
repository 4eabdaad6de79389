"""Writes a checkpoint of real size with random weights: the shapes, names and files of a released model, so that memory and speed can be
measured without the model itself.

    checkpoint.py openflamingo-9b|mllama-11b DIR

Every tensor is a piece of one block of 32 Mi normal bf16 numbers (std 0.02), which begins where a hash of the tensor's name says. Gains of
norms are 1, offsets 0, gates 0.5. The tokenizers have the special tokens of the released ones at their ids, and bytes instead of merges.
"""

import hashlib
import json
import struct
import sys
from pathlib import Path

import numpy as np

BLOCK = 32 << 20  # numbers
SHARD = 4 << 30  # bytes


def bf16(values):
    """float32 -> the upper half of the bits, as uint16."""
    bits = np.asarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x8000) >> 16).astype(np.uint16)


def random_block():
    generator = np.random.default_rng(7)
    return bf16(generator.standard_normal(BLOCK, dtype=np.float32) * np.float32(0.02))


ONE, HALF = int(bf16([1.0])[0]), int(bf16([0.5])[0])


def constant(name):
    """The value of gains, offsets and gates; None for a matrix."""
    parts = name.split(".")
    if "gate" in parts[-1] and not parts[-1].endswith("proj") or parts[-1] == "gate":
        return HALF
    is_norm = any("norm" in part or part.startswith("ln_") for part in parts[:-1]) or parts[-2:-1] == ["0"]
    if is_norm and parts[-1] in ("weight", "bias"):
        return ONE if parts[-1] == "weight" else 0
    return None


def content(block, name, shape):
    """The numbers of a tensor in pieces."""
    left = int(np.prod(shape))
    value = constant(name)
    if value is not None:
        yield np.full(left, value, dtype=np.uint16)
        return
    start = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little") % BLOCK
    while left:
        piece = block[start : start + min(left, BLOCK - start)]
        yield piece
        left -= len(piece)
        start = 0


def write_safetensors(path, block, tensors):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in tensors.items():
        end = offset + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in tensors.items():
            for piece in content(block, name, shape):
                file.write(piece)


def write_shards(directory, block, tensors):
    """Writes shards of at most SHARD bytes, with an index."""
    shards, size = [{}], 0
    for name, shape in tensors.items():
        n = 2 * int(np.prod(shape))
        if size + n > SHARD and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = shape
        size += n
    place = {}
    for i, shard in enumerate(shards, 1):
        file = f"model-{i:05}-of-{len(shards):05}.safetensors"
        write_safetensors(directory / file, block, shard)
        place |= {name: file for name in shard}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": place}))


def byte_symbols():
    """GPT-2's printable symbols of the 256 bytes."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    symbol = {byte: chr(byte) for byte in kept} | {byte: chr(256 + i) for i, byte in enumerate(others)}
    return [symbol[byte] for byte in range(256)]


def write_tokenizer(directory, size, special):
    """A byte-level tokenizer of `size` tokens, followed by the special ones."""
    tokens = byte_symbols() + [f"unused{i}" for i in range(size - 256)]
    added = [
        {"id": size + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, token in enumerate(special)
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "vocab": {token: i for i, token in enumerate(tokens)}, "merges": []}
    tokenizer = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
                 "pre_tokenizer": level, "post_processor": None, "decoder": level, "model": model}
    (directory / "tokenizer.json").write_text(json.dumps(tokenizer))


def clip_vit_l():
    d, prefix = 1024, "vision_model."
    tensors = {
        "embeddings.class_embedding": (d,), "embeddings.patch_embedding.weight": (d, 3, 14, 14),
        "embeddings.position_embedding.weight": (257, d),
        "pre_layrnorm.weight": (d,), "pre_layrnorm.bias": (d,), "post_layernorm.weight": (d,), "post_layernorm.bias": (d,),
    }
    for i in range(24):
        layer = f"encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors |= {f"{layer}self_attn.{name}.weight": (d, d), f"{layer}self_attn.{name}.bias": (d,)}
        for name in ("layer_norm1", "layer_norm2"):
            tensors |= {f"{layer}{name}.weight": (d,), f"{layer}{name}.bias": (d,)}
        tensors |= {f"{layer}mlp.fc1.weight": (4 * d, d), f"{layer}mlp.fc1.bias": (4 * d,)}
        tensors |= {f"{layer}mlp.fc2.weight": (d, 4 * d), f"{layer}mlp.fc2.bias": (d,)}
    return {prefix + name: shape for name, shape in tensors.items()}


def openflamingo_9b(directory, block):
    """OpenFlamingo-9B-vitl-mpt7b: MPT-7B, CLIP ViT-L/14, a gated cross-attention before every fourth layer."""
    import torch

    d, vision = 4096, 1024
    language = directory / "language"
    language.mkdir(parents=True)
    tensors = {"transformer.wte.weight": (50432, d)}
    for i in range(32):
        layer = f"transformer.blocks.{i}."
        tensors |= {layer + "norm_1.weight": (d,), layer + "attn.Wqkv.weight": (3 * d, d), layer + "attn.out_proj.weight": (d, d)}
        tensors |= {layer + "norm_2.weight": (d,), layer + "ffn.up_proj.weight": (4 * d, d), layer + "ffn.down_proj.weight": (d, 4 * d)}
    tensors["transformer.norm_f.weight"] = (d,)
    write_shards(language, block, tensors)
    config = {"model_type": "mpt", "d_model": d, "n_heads": 32, "n_layers": 32, "expansion_ratio": 4, "max_seq_len": 2048,
              "vocab_size": 50432, "no_bias": True, "norm_type": "low_precision_layernorm", "tie_word_embeddings": True,
              "attn_config": {"attn_type": "multihead_attention", "alibi": True, "alibi_bias_max": 8, "qk_ln": False, "clip_qkv": None,
                              "prefix_lm": False, "softmax_scale": None, "attn_uses_sequence_id": False, "attn_pdrop": 0}}
    (language / "config.json").write_text(json.dumps(config))
    write_tokenizer(language, 50276, ["<|endoftext|>"])
    (language / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|endoftext|>"}))

    clip = directory / "vision"
    clip.mkdir()
    write_safetensors(clip / "model.safetensors", block, clip_vit_l())
    vision_config = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 224,
                     "patch_size": 14, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "model_type": "clip_vision_model"}
    (clip / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": vision_config}))

    trained = {"perceiver.latents": (64, vision), "perceiver.norm.weight": (vision,), "perceiver.norm.bias": (vision,)}
    for i in range(6):
        layer = f"perceiver.layers.{i}."
        for norm in ("0.norm_media", "0.norm_latents", "1.0"):
            trained |= {f"{layer}{norm}.weight": (vision,), f"{layer}{norm}.bias": (vision,)}
        trained |= {layer + "0.to_q.weight": (512, vision), layer + "0.to_kv.weight": (1024, vision), layer + "0.to_out.weight": (vision, 512)}
        trained |= {layer + "1.1.weight": (4 * vision, vision), layer + "1.3.weight": (vision, 4 * vision)}
    for i in range(3, 32, 4):
        block_name = f"lang_encoder.transformer.blocks.{i}.gated_cross_attn_layer."
        trained |= {block_name + "attn_gate": (1,), block_name + "ff_gate": (1,)}
        for norm in ("attn.norm", "ff.0"):
            trained |= {f"{block_name}{norm}.weight": (d,), f"{block_name}{norm}.bias": (d,)}
        trained |= {block_name + "attn.to_q.weight": (512, d), block_name + "attn.to_kv.weight": (1024, vision)}
        trained |= {block_name + "attn.to_out.weight": (d, 512), block_name + "ff.1.weight": (4 * d, d), block_name + "ff.3.weight": (d, 4 * d)}
    trained["lang_encoder.transformer.wte.weight"] = (50280, d)

    def tensor(name, shape):
        numbers = np.concatenate(list(content(block, name, shape))).astype(np.int16)
        return torch.from_numpy(numbers).view(torch.bfloat16).reshape(shape)

    torch.save({name: tensor(name, shape) for name, shape in trained.items()}, directory / "checkpoint.pt")
    config = {"schema": "open_flamingo/1", "name": "random/OpenFlamingo-9B-vitl-mpt7b", "checkpoint": "checkpoint.pt", "language": "language",
              "vision": "vision", "cross_attn_every_n_layers": 4}
    (directory / "config.json").write_text(json.dumps(config))


def mllama_11b(directory, block):
    """Llama-3.2-11B-Vision-Instruct."""
    directory.mkdir(parents=True)
    h, ffn, v, positions = 4096, 14336, 1280, 1601
    cross = list(range(3, 40, 5))
    tensors = {
        "vision_model.class_embedding": (v,), "vision_model.patch_embedding.weight": (v, 3, 14, 14),
        "vision_model.gated_positional_embedding.embedding": (positions, v), "vision_model.gated_positional_embedding.gate": (1,),
        "vision_model.gated_positional_embedding.tile_embedding.weight": (9, 4 * positions * v),
    }
    for place in ("pre", "post"):
        tensors |= {f"vision_model.{place}_tile_positional_embedding.embedding.weight": (9, 4 * v),
                    f"vision_model.{place}_tile_positional_embedding.gate": (1,),
                    f"vision_model.layernorm_{place}.weight": (v,), f"vision_model.layernorm_{place}.bias": (v,)}
    for part, layers in (("transformer", 32), ("global_transformer", 8)):
        for i in range(layers):
            layer = f"vision_model.{part}.layers.{i}."
            tensors |= {f"{layer}self_attn.{name}_proj.weight": (v, v) for name in "qkvo"}
            tensors |= {layer + "mlp.fc1.weight": (4 * v, v), layer + "mlp.fc1.bias": (4 * v,), layer + "mlp.fc2.weight": (v, 4 * v),
                        layer + "mlp.fc2.bias": (v,)}
            for norm in ("input_layernorm", "post_attention_layernorm"):
                tensors |= {f"{layer}{norm}.weight": (v,), f"{layer}{norm}.bias": (v,)}
            if part == "global_transformer":
                tensors |= {layer + "gate_attn": (1,), layer + "gate_ffn": (1,)}
    tensors |= {"multi_modal_projector.weight": (h, 6 * v), "multi_modal_projector.bias": (h,),
                "language_model.model.embed_tokens.weight": (128264, h)}
    for i in range(40):
        layer = f"language_model.model.layers.{i}."
        attention, kv = ("cross_attn", (1024, h)) if i in cross else ("self_attn", (1024, h))
        tensors |= {f"{layer}{attention}.q_proj.weight": (h, h), f"{layer}{attention}.o_proj.weight": (h, h)}
        tensors |= {f"{layer}{attention}.k_proj.weight": kv, f"{layer}{attention}.v_proj.weight": kv}
        if i in cross:
            tensors |= {layer + "cross_attn.q_norm.weight": (128,), layer + "cross_attn.k_norm.weight": (128,),
                        layer + "cross_attn_attn_gate": (1,), layer + "cross_attn_mlp_gate": (1,)}
        tensors |= {layer + "mlp.gate_proj.weight": (ffn, h), layer + "mlp.up_proj.weight": (ffn, h), layer + "mlp.down_proj.weight": (h, ffn)}
        tensors |= {layer + "input_layernorm.weight": (h,), layer + "post_attention_layernorm.weight": (h,)}
    tensors |= {"language_model.model.norm.weight": (h,), "language_model.lm_head.weight": (128256, h)}
    write_shards(directory, block, tensors)
    rope = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    text = {"model_type": "mllama_text_model", "vocab_size": 128256, "hidden_size": h, "num_attention_heads": 32, "num_key_value_heads": 8,
            "num_hidden_layers": 40, "cross_attention_layers": cross, "intermediate_size": ffn, "hidden_act": "silu", "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0, "rope_scaling": rope, "max_position_embeddings": 131072, "bos_token_id": 128000,
            "eos_token_id": [128001, 128008, 128009], "pad_token_id": 128004, "tie_word_embeddings": False}
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    vision = {"model_type": "mllama_vision_model", "hidden_size": v, "attention_heads": 16, "num_hidden_layers": 32, "num_global_layers": 8,
              "intermediate_size": 4 * v, "image_size": 560, "patch_size": 14, "num_channels": 3, "max_num_tiles": 4, "norm_eps": 1e-5,
              "hidden_act": "gelu", "intermediate_layers_indices": [3, 7, 15, 23, 30], "vision_output_dim": 6 * v,
              "supported_aspect_ratios": ratios}
    # The reference is transformers, so its treatment of the tokens before the image.
    config = {"model_type": "mllama", "row_mask": "hf", "architectures": ["MllamaForConditionalGeneration"], "image_token_index": 128256, "text_config": text,
              "vision_config": vision}
    (directory / "config.json").write_text(json.dumps(config))
    processor = {"image_processor_type": "MllamaImageProcessor", "do_convert_rgb": True, "do_resize": True, "do_rescale": True,
                 "do_normalize": True, "do_pad": True, "resample": 2, "rescale_factor": 1 / 255, "max_image_tiles": 4,
                 "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
                 "size": {"height": 560, "width": 560}}
    (directory / "preprocessor_config.json").write_text(json.dumps(processor))
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
               "<|finetune_right_pad_id|>", "<|reserved_special_token_2|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>",
               "<|eot_id|>", "<|python_tag|>"]
    special += [f"<|reserved_special_token_{i}|>" for i in range(3, 248)] + ["<|image|>"]
    write_tokenizer(directory, 128000, special)
    (directory / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}))


def main():
    makers = {"openflamingo-9b": openflamingo_9b, "mllama-11b": mllama_11b}
    if len(sys.argv) != 3 or sys.argv[1] not in makers:
        sys.exit(__doc__)
    makers[sys.argv[1]](Path(sys.argv[2]), random_block())


if __name__ == "__main__":
    main()
