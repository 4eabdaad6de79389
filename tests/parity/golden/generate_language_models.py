"""Writes the goldens of the language models: for each model a folder language/NAME/, in the layout of its original code, and
language/NAME.safetensors with every stage, the logits and a greedy continuation.

The references are not ours: transformers' models, and MosaicGPT as Luodian/Otter keeps it (the code of
mosaicml/mpt-1b-redpajama-200b). A golden is first shown to fail for wrong variants of the reference: the metadata holds the
relative error of the logits of each.

    pip install -r requirements_language_models.txt
    git clone https://github.com/Luodian/Otter && git -C Otter checkout 1e7eb9a
    python generate_language_models.py Otter/src/otter_ai/models
"""

import argparse
import copy
import importlib
import json
import math
import os
import shutil
import sys
import types
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

HERE = Path(__file__).resolve().parent
TOKENS = 19
NEW_TOKENS = 32
QUIET = 6  # the last ids have embeddings of small variance: an epsilon shows
LEAST_MARGIN = 1e-2
LEAST_ERROR = 5e-4  # five times the tolerance of the logits


def fill(model, seed, dtype):
    """Random weights of std 0.2, gains about 1, rounded to the type of the file."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            norm = any(part in name for part in ("norm", "ln_", "_ln")) and name.endswith("weight")
            if norm:
                parameter.copy_(torch.rand(parameter.shape, generator=generator) + 0.5)
            else:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
        rows = model.get_input_embeddings().weight
        rows[-QUIET:] *= 0.01
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    return model.eval()


def stages(model, parts, ids):
    """The embedding, the hidden state after every layer, and the logits."""
    kept, handles = {}, []
    def keep(name):
        def hook(module, inputs, output):
            kept[name] = (output[0] if isinstance(output, tuple) else output).reshape(len(ids), -1).clone()
        return hook
    embedding, layers = parts(model)
    if embedding is not None:
        handles.append(embedding.register_forward_hook(keep("embeddings")))
    handles += [layer.register_forward_hook(keep(f"layer.{i}")) for i, layer in enumerate(layers)]
    with torch.no_grad():
        kept["logits"] = model(torch.tensor([ids])).logits[0].float().clone()
    for handle in handles:
        handle.remove()
    return kept


def greedy(model, ids):
    """Greedy continuation and the least margin between the best two ids; the reference is run without a cache."""
    margin = math.inf
    for _ in range(NEW_TOKENS):
        with torch.no_grad():
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
        margin = min(margin, (best.values[0] - best.values[1]).item())
        ids = ids + [best.indices[0].item()]
    return ids[-NEW_TOKENS:], margin


def cached(model, ids):
    """The logits of the reference with its cache, token by token."""
    past, rows = None, []
    for i in ids:
        with torch.no_grad():
            out = model(torch.tensor([[i]]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        rows.append(out.logits[0])
    return torch.cat(rows)


def error(a, b):
    """Largest difference in units of the root mean square."""
    return ((a - b).abs().max() / b.pow(2).mean().sqrt()).item()


def tokenizer(folder, vocabulary):
    words = ["<unk>", "<s>", "</s>", "a", "cat", "dog", "sees", "the"]
    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens(words[:3])
    made.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}\n')


def replaced(module, name, value):
    """A copy of the model with another value at a dotted path in every layer that has it."""
    for part in module.modules():
        if hasattr(part, name):
            setattr(part, name, value)


def variant(model, change):
    wrong = copy.deepcopy(model)
    change(wrong)
    return wrong


def eps(model, factor=10):
    for part in model.modules():
        for name in ("eps", "variance_epsilon"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, getattr(part, name) * factor)


def forward(cls, new):
    """Replaces the forward of all modules of a class, by name."""
    def change(model):
        for part in model.modules():
            if type(part).__name__ == cls:
                part.forward = types.MethodType(new, part)
    return change


tanh_gelu = forward("GELU", lambda self, x: torch.nn.functional.gelu(x, approximate="tanh"))
tanh_gelu_activation = forward("GELUActivation", lambda self, x: torch.nn.functional.gelu(x, approximate="tanh"))


def fused_swap(names, heads=None):
    """Exchanges keys and values in the fused matrix."""
    def change(model):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if any(part in name for part in names):
                    if heads is None:
                        q, k, v = parameter.chunk(3)
                        parameter.copy_(torch.cat([q, v, k]))
                    else:
                        rows = parameter.reshape(heads, 3, -1, *parameter.shape[1:])
                        parameter.copy_(rows[:, [0, 2, 1]].reshape(parameter.shape))
    return change


def no_interleave(heads):
    """Reads the fused matrix of GPT-NeoX as [q; k; v]."""
    def change(model):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "query_key_value" in name:
                    rows = parameter.reshape(3, heads, -1, *parameter.shape[1:])
                    parameter.copy_(rows.transpose(0, 1).reshape(parameter.shape))
    return change


def interleaved_rotary(module):
    """Rotates pairs 2i and 2i + 1."""
    def half(x):
        return torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
    def apply(q, k, cos, sin, position_ids=None, unsqueeze_dim=1):
        def twice(x):
            return x[..., : x.shape[-1] // 2].repeat_interleave(2, -1).unsqueeze(unsqueeze_dim)
        return q * twice(cos) + half(q) * twice(sin), k * twice(cos) + half(k) * twice(sin)
    return module, "apply_rotary_pos_emb", apply


class Patched:
    """Replaces a function of a module while a variant runs."""
    def __init__(self, patch):
        self.module, self.name, self.value = patch
    def __enter__(self):
        self.kept = getattr(self.module, self.name)
        setattr(self.module, self.name, self.value)
    def __exit__(self, *_):
        setattr(self.module, self.name, self.kept)


def mosaic_gpt(source):
    package = types.ModuleType("mosaic")
    package.__path__ = [str(source / "mpt_redpajama")]
    sys.modules["mosaic"] = package
    code = importlib.import_module("mosaic.mosaic_gpt")
    attention = importlib.import_module("mosaic.attention")
    config = code.MosaicGPTConfig(
        d_model=40, n_heads=5, n_layers=3, mlp_ratio=3, max_seq_len=160, vocab_size=103, attn_impl="torch", attn_qk_ln=True,
        alibi=True, no_bias=True, low_precision_layernorm=True, init_device="cpu", bos_token_id=1, eos_token_id=2)
    def per_head(self, x):
        shape = (*x.shape[:-1], 5, 8)
        return torch.nn.functional.layer_norm(x.reshape(shape), (8,), None, None, self.eps).reshape(x.shape) * self.weight
    def per_head_norm(model):
        for name, part in model.named_modules():
            if name.endswith(("q_ln", "k_ln")):
                part.forward = types.MethodType(per_head, part)
    def no_norm(model):
        replaced(model, "attn_qk_ln", False)
    plain = attention.alibi_bias
    def negated(*args, **kwargs):
        return -plain(*args, **kwargs)
    def paper(n_heads, seq_len, full=False, alibi_bias_max=8, device=None, dtype=None):
        slopes = [2.0 ** -i for i in (2, 4, 6, 8, 1)]
        return torch.arange(1 - seq_len, 1, dtype=dtype).view(1, 1, 1, -1) * torch.tensor(slopes).view(1, -1, 1, 1)
    variants = {
        "alibi_sign": (attention, "alibi_bias", negated), "alibi_slopes_of_paper": (attention, "alibi_bias", paper),
        "qk_norm_per_head": per_head_norm, "qk_norm_off": no_norm, "eps": eps, "tanh_gelu": tanh_gelu,
        "kv_swapped": fused_swap(["Wqkv"]),
    }
    def parts(model):
        return model.transformer["wte"], model.transformer["blocks"]
    return code.MosaicGPT, config, torch.bfloat16, parts, variants


def mpt():
    from transformers.models.mpt import modeling_mpt
    config = transformers.MptConfig(
        d_model=36, n_heads=6, n_layers=3, expansion_ratio=4, max_seq_len=160, vocab_size=101, layer_norm_epsilon=1e-5,
        # transformers ignores another `alibi_bias_max`; the code of MosaicML does not.
        attn_config={"alibi_bias_max": 8, "clip_qkv": 1.5}, bos_token_id=1, eos_token_id=2)
    plain = modeling_mpt.build_mpt_alibi_tensor
    def changed(change):
        def build(num_heads, sequence_length, alibi_bias_max=8, device=None):
            return change(plain(num_heads, sequence_length, alibi_bias_max), num_heads, sequence_length)
        return modeling_mpt.MptModel, "build_mpt_alibi_tensor", lambda self, *args, **kwargs: build(*args, **kwargs)
    def even(bias, heads, length):
        slopes = torch.tensor([2.0 ** (-8 * i / heads) for i in range(1, heads + 1)]).view(-1, 1, 1)
        return torch.arange(1 - length, 1).view(1, 1, -1) * slopes
    def max_six(bias, heads, length):
        return plain(heads, length, 6)
    variants = {
        "alibi_sign": changed(lambda bias, *_: -bias), "alibi_slopes_even": changed(even),
        "alibi_max_6": changed(max_six), "clip_off": lambda model: replaced(model, "clip_qkv", None), "eps": eps,
        "tanh_gelu": tanh_gelu, "kv_swapped": fused_swap(["Wqkv"]),
    }
    def parts(model):
        return model.transformer.wte, model.transformer.blocks
    return transformers.MptForCausalLM, config, torch.float32, parts, variants


def gpt_neox(parallel, part):
    from transformers.models.gpt_neox import modeling_gpt_neox
    config = transformers.GPTNeoXConfig(
        vocab_size=107, hidden_size=40, num_hidden_layers=2 if parallel else 3, num_attention_heads=4, intermediate_size=72,
        rotary_pct=part, rotary_emb_base=3000, max_position_embeddings=160, layer_norm_eps=1e-5, tie_word_embeddings=False,
        use_parallel_residual=parallel, hidden_act="gelu", bos_token_id=1, eos_token_id=2)
    config._attn_implementation = "eager"
    def all_rotated(model):
        part = model.gpt_neox.rotary_emb
        part.__init__(dim=10, max_position_embeddings=160, base=3000)
        replaced(model, "rotary_ndims", 10)
    variants = {
        "residual_rule": lambda model: replaced(model, "use_parallel_residual", not parallel),
        "rotary_interleaved": interleaved_rotary(modeling_gpt_neox), "fused_matrix_by_kind": no_interleave(4), "eps": eps,
        "tanh_gelu": tanh_gelu_activation, "kv_swapped": fused_swap(["query_key_value"], 4),
    }
    if part < 1:
        variants["rotary_pct_off"] = all_rotated
    def parts(model):
        return model.gpt_neox.embed_in, model.gpt_neox.layers
    return transformers.GPTNeoXForCausalLM, config, torch.float16, parts, variants


def with_old_buffers(model):
    """The state of a checkpoint of 2023, which holds masks and rotary frequencies too."""
    state = model.state_dict()
    for i, layer in enumerate(model.gpt_neox.layers):
        prefix = f"gpt_neox.layers.{i}.attention."
        state[prefix + "bias"] = torch.ones(96, 96, dtype=torch.bool).tril().view(1, 1, 96, 96)
        state[prefix + "masked_bias"] = torch.tensor(-1e9)
        state[prefix + "rotary_emb.inv_freq"] = model.gpt_neox.rotary_emb.inv_freq.clone()
    return state


def opt(before):
    config = transformers.OPTConfig(
        vocab_size=109, hidden_size=32, num_hidden_layers=2, ffn_dim=56, max_position_embeddings=160, num_attention_heads=4,
        word_embed_proj_dim=32 if before else 20, do_layer_norm_before=before, dropout=0.0, pad_token_id=1, bos_token_id=2,
        eos_token_id=2)
    config._attn_implementation = "eager"
    def offset(model):
        model.model.decoder.embed_positions.offset = 0
    def gelu(model):
        replaced(model, "activation_fn", torch.nn.GELU())
    variants = {
        # After the sum of a post-norm model no variance is small.
        "position_offset": offset, "gelu": gelu, "eps": lambda model: eps(model, 10 if before else 100),
        "norm_order": lambda model: replaced(model, "do_layer_norm_before", not before),
    }
    def parts(model):
        return None, model.model.decoder.layers
    return transformers.OPTForCausalLM, config, torch.float32, parts, variants


def llama_like(kind):
    from transformers.models.llama import modeling_llama
    from transformers.models.mistral import modeling_mistral
    from transformers.models.qwen2 import modeling_qwen2
    sizes = dict(vocab_size=113, hidden_size=36, intermediate_size=52, num_hidden_layers=2, num_attention_heads=6,
                 num_key_value_heads=2, max_position_embeddings=160, rms_norm_eps=1e-6, rope_theta=3000.0, bos_token_id=1,
                 eos_token_id=2, attn_implementation="eager")
    name, module, extra = {
        "llama": ("Llama", modeling_llama, dict(rope_scaling={"type": "linear", "factor": 2.5}, rms_norm_eps=1e-5)),
        "mistral": ("Mistral", modeling_mistral, dict(head_dim=8, sliding_window=128)),
        "qwen2": ("Qwen2", modeling_qwen2, dict(tie_word_embeddings=True, use_sliding_window=False)),
    }[kind]
    config = getattr(transformers, name + "Config")(**(sizes | extra))
    def unscaled(model):
        for part in model.modules():
            if hasattr(part, "inv_freq"):
                part.inv_freq = part.inv_freq * 2.5
    def no_bias(model):
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.zero_()
    def kv_swapped(model):
        for layer in model.model.layers:
            layer.self_attn.k_proj, layer.self_attn.v_proj = layer.self_attn.v_proj, layer.self_attn.k_proj
    variants = {"rotary_interleaved": interleaved_rotary(module), "eps": eps, "kv_swapped": kv_swapped}
    if kind == "llama":
        variants["rope_scaling_off"] = unscaled
    if kind == "qwen2":
        variants["qkv_bias_off"] = no_bias
    def parts(model):
        return model.model.embed_tokens, model.model.layers
    return getattr(transformers, name + "ForCausalLM"), config, torch.bfloat16, parts, variants


def save(model, folder, dtype, name):
    """Writes the checkpoint as the hub has it: PyTorch files for the old models, one or shards."""
    shutil.rmtree(folder, ignore_errors=True)
    typed = copy.deepcopy(model).to(dtype)
    typed.config.torch_dtype = dtype
    state = with_old_buffers(typed) if name == "redpajama" else None
    old = name in ("mosaic_gpt", "mpt", "redpajama", "opt")
    size = {"mpt": "64KB", "mistral": "32KB"}.get(name, "1GB")
    typed.save_pretrained(folder, safe_serialization=not old, max_shard_size=size, state_dict=state)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tokenizer(folder, model.config.vocab_size)


def make(name, described):
    cls, config, dtype, parts, variants = described
    vocabulary = config.vocab_size
    for seed in range(1, 200):
        generator = torch.Generator().manual_seed(seed)
        model = fill(cls(config), seed, dtype)
        prompt = torch.randint(0, vocabulary - QUIET, (5,), generator=generator).tolist()
        continued, margin = greedy(model, prompt)
        if margin >= LEAST_MARGIN and len(set(continued)) > 4:
            break
    assert margin >= LEAST_MARGIN, f"{name}: no seed has clear greedy ids"
    ids = {
        "usual": torch.randint(0, vocabulary, (TOKENS,), generator=generator).tolist(),
        "quiet": torch.randint(vocabulary - QUIET, vocabulary, (7,), generator=generator).tolist(),
    }
    tensors, errors = {}, {}
    for case, row in ids.items():
        kept = stages(model, parts, row)
        tensors |= {f"{case}.{key}": value.contiguous() for key, value in kept.items()}
        tensors[f"{case}.ids"] = torch.tensor(row, dtype=torch.uint32)
    assert error(cached(model, ids["usual"]), tensors["usual.logits"]) < 1e-4, f"{name}: the cache of the reference"
    for wrong, change in variants.items():
        if isinstance(change, tuple):
            with Patched(change):
                # Biases of MosaicGPT are computed once: a fresh copy computes them again.
                other = variant(model, lambda m: setattr(m, "_attn_bias_initialized", False))
                found = {case: stages(other, parts, row)["logits"] for case, row in ids.items()}
        else:
            other = variant(model, change)
            found = {case: stages(other, parts, row)["logits"] for case, row in ids.items()}
        errors[wrong] = max(error(found[case], tensors[f"{case}.logits"]) for case in ids)
        assert errors[wrong] > LEAST_ERROR, f"{name}: the golden does not notice {wrong}: {errors[wrong]:.1e}"
    tensors["prompt"] = torch.tensor(prompt, dtype=torch.uint32)
    tensors["continuation"] = torch.tensor(continued, dtype=torch.uint32)
    save(model, HERE / "language" / name, dtype, name)
    metadata = {
        "torch": torch.__version__, "transformers": transformers.__version__, "seed": str(seed),
        "margin": f"{margin:.3f}", "wrong_variants": json.dumps({key: f"{value:.1e}" for key, value in errors.items()}),
    }
    save_file(tensors, HERE / "language" / f"{name}.safetensors", metadata)
    print(name, metadata)


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("mosaic", type=Path, help="folder that holds mpt_redpajama/")
    arguments.add_argument("models", nargs="*")
    arguments = arguments.parse_args()
    torch.set_num_threads(2)
    described = {
        "mosaic_gpt": lambda: mosaic_gpt(arguments.mosaic), "mpt": mpt, "pythia": lambda: gpt_neox(True, 0.4),
        "redpajama": lambda: gpt_neox(False, 1.0), "opt": lambda: opt(True), "opt_350m": lambda: opt(False),
        "llama": lambda: llama_like("llama"), "mistral": lambda: llama_like("mistral"), "qwen2": lambda: llama_like("qwen2"),
    }
    for name in arguments.models or described:
        make(name, described[name]())


if __name__ == "__main__":
    main()
