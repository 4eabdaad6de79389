"""Writes the goldens of the language model: language_smollm2, language_tiny (safetensors), language_tokenizer (JSON),
and the tiny model itself, tiny_llama/ and tiny_llama_sharded/.

The references are not ours: transformers' LlamaForCausalLM, its GGUF loader (gguf-py's dequantisation, its own
un-permutation of q and k), and llama.cpp's tokenizer, in process through xllamacpp. transformers' own GGUF tokenizer
is not used: it takes SmolLM2's pre-tokenizer for GPT-2's and does not split digits.

    pip install torch transformers gguf accelerate safetensors tokenizers xllamacpp
    python generate_language.py

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3, xllamacpp 2026.10.11549.
"""

import json
import os
import shutil
import urllib.request
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HERE = Path(__file__).resolve().parent
GGUF = HERE.parents[2] / "models" / "language" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = {
    "short": "A video of",
    "middle": "The capital of France is",
    "long": "<|im_start|>user\nWhat do you see in 3 words?<|im_end|>\n<|im_start|>assistant\n",
}
CONTINUED = list(PROMPTS.values()) + ["Question: what colour is the sky? Short answer:"]
NEW_TOKENS = 24
TEXTS = [
    "", " ", "  ", "a", " a", "a b  c   d", "Hello, world!", "In 2024, 1234567890 things; a1b22c333",
    "3.14159 and 1,000,000", "the year\u00a02024", "½ cup, x², Ⅷ, ٣٤", "café naïve Zürich — “quoted” …",
    "Привет, мир! 12", "日本語のテキスト123", "مرحبا بالعالم", "😀 👩‍👩‍👧‍👦 🇫🇷", "e\u0301 (decomposed)", "line\nbreak",
    "two\n\nbreaks", "\n\n\n", "\r\n windows\r\n", "\ttab\t\tindent", "trailing   ", "   leading", "x=1;\n    y = 2\n",
    "I'm you're he'll WE'VE don't", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|im_end|><|im_end|>",
    "not <|special|> <|im_end", "a<|endoftext|>b", "<image> <video> </s> <s>", "<repo_name>x<file_sep>",
    "snake_case_name camelCaseName 0xFF", "https://example.org/a?b=c&d=%20", "!!!???...", "zero\u200bwidth",
]


def stages(model, ids, layers):
    """The hidden state after the embedding and after some layers, and the logits."""
    kept = {}
    def keep(name):
        def hook(module, inputs, output):
            kept[name] = (output[0] if isinstance(output, tuple) else output)[0].clone()
        return hook
    handles = [model.model.embed_tokens.register_forward_hook(keep("embeddings"))]
    handles += [model.model.layers[i].register_forward_hook(keep(f"layer.{i}")) for i in layers]
    with torch.no_grad():
        kept["logits"] = model(torch.tensor([ids])).logits[0].clone()
    for handle in handles:
        handle.remove()
    return kept



def smollm2(encode):
    model = AutoModelForCausalLM.from_pretrained(GGUF.parent, gguf_file=GGUF.name, dtype=torch.float32).eval()
    tensors = {}
    for name, prompt in PROMPTS.items():
        ids = encode(prompt, True)
        kept = stages(model, ids, [0, 14, 29])
        logits = kept.pop("logits")
        kept["last_logits"] = logits[-1:].clone()  # whole rows are large: the others are held by their sum and best
        kept["log_sum_exp"] = logits.logsumexp(-1)
        kept["best"] = logits.argmax(-1).to(torch.uint32)
        kept["ids"] = torch.tensor(ids, dtype=torch.uint32)
        tensors |= {f"{name}.{key}": value.contiguous() for key, value in kept.items()}
    # generate() would stop at the end of the message; forced minimum lengths would forbid that token: plain argmax.
    for i, prompt in enumerate(CONTINUED):
        ids = encode(prompt, True)
        tensors[f"continuation.{i}.prompt"] = torch.tensor(ids, dtype=torch.uint32)
        for _ in range(NEW_TOKENS):
            with torch.no_grad():
                ids = ids + [model(torch.tensor([ids])).logits[0, -1].argmax().item()]
        tensors[f"continuation.{i}.ids"] = torch.tensor(ids[-NEW_TOKENS:], dtype=torch.uint32)
        print(repr(prompt), "->", ids[-NEW_TOKENS:])
    save_file(tensors, HERE / "language_smollm2.safetensors")


def tiny():
    torch.manual_seed(7)
    rope = {"rope_type": "llama3", "rope_theta": 3000.0, "factor": 4.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 40}
    config = LlamaConfig(
        vocab_size=101, hidden_size=36, intermediate_size=56, num_hidden_layers=3, num_attention_heads=6,
        num_key_value_heads=2, head_dim=10, max_position_embeddings=160, rms_norm_eps=1e-5, rope_parameters=rope,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=None, dtype="float32")
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    words = ["<unk>", "<s>", "</s>", "a", "cat", "dog", "sees", "the"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[:3])
    for folder, size in (("tiny_llama", "1GB"), ("tiny_llama_sharded", "64KB")):
        shutil.rmtree(HERE / folder, ignore_errors=True)
        model.save_pretrained(HERE / folder, max_shard_size=size)
        (HERE / folder / "generation_config.json").unlink()
        tokenizer.save(str(HERE / folder / "tokenizer.json"), pretty=False)
        (HERE / folder / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}\n')
    ids = torch.randint(0, 101, (67,), generator=torch.Generator().manual_seed(3)).tolist()
    tensors = stages(model, ids, [0, 1, 2]) | {"ids": torch.tensor(ids, dtype=torch.uint32)}
    save_file({key: value.contiguous() for key, value in tensors.items()}, HERE / "language_tiny.safetensors")


def llama_cpp_tokenizer():
    """llama.cpp's tokenizer of the same file: (text, parse special tokens) -> ids."""
    import xllamacpp
    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.warmup = str(GGUF), 256, False
    server = xllamacpp.Server(params)
    def encode(text, special):
        body = json.dumps({"content": text, "add_special": False, "parse_special": special}).encode()
        request = urllib.request.Request(f"{server.listening_address}/tokenize", body)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]
    return server, encode


def main():
    torch.set_num_threads(2)
    tiny()
    server, encode = llama_cpp_tokenizer()
    cases = [{"text": text, "ids": encode(text, True), "plain": encode(text, False)} for text in TEXTS]
    lines = ",\n".join(json.dumps(case, ensure_ascii=False) for case in cases)
    (HERE / "language_tokenizer.json").write_text(f"[\n{lines}\n]\n")
    smollm2(encode)


if __name__ == "__main__":
    main()
