"""Writes small tokenizers of the kinds that language models have, tokenizers/NAME/, and the ids of some texts, tokenizers.json.

GPT-NeoX (byte-level BPE with runs of spaces), LLaMA (SentencePiece's BPE with bytes for unknown characters) and OPT (vocab.json
and merges.txt, read by transformers' tokenizer in Python). "added": ids after the tokens of OpenFlamingo were added.

    pip install -r requirements_language_models.txt
    python generate_tokenizers.py
"""

import json
import shutil
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import GPT2Tokenizer, GPTNeoXTokenizerFast, LlamaTokenizerFast

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "tokenizers"
CORPUS = [
    "a video of a cat and a dog in the garden", "Question: what colour is the sky? Short answer: blue",
    "the quick brown fox jumps over the lazy dog", "Output: a man rides a wave on a surfboard", "User: what is in the image?",
    "GPT: the image shows two children with a kite", "    indented code    with spaces", "cats, dogs; birds and 12 fish!",
] * 4
TEXTS = [
    "", " ", "  ", "a cat", " a cat", "a  cat   and    a dog", "Output:a man", "Question:what? Short answer:", "12345 fish",
    "caf\u00e9 \u65e5\u672c \U0001F600", "line\nbreak\n\n", "\ttab", "e\u0301", "</s>", "<s> a </s>", "<|endoftext|>a<|endoftext|>",
    "a<image>b", "<|endofchunk|>", "<PAD>", "<0x41>", "<unk>", "trailing  ", "<pad>",
]
ADDED = ["<|endofchunk|>", "<image>"]


def neox(folder):
    made = Tokenizer(models.BPE())
    made.normalizer = normalizers.NFC()
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<|endoftext|>", "<|padding|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([AddedToken(" " * n, normalized=True) for n in (8, 4, 2)])
    tokenizer = GPTNeoXTokenizerFast(tokenizer_object=made)
    tokenizer.save_pretrained(folder)
    return tokenizer


def llama(folder):
    learned = Tokenizer(models.BPE())
    learned.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    learned.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=200, max_token_length=8))
    state = json.loads(learned.to_str())["model"]
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + sorted(state["vocab"], key=state["vocab"].get)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in state["merges"]]
    made = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.add_special_tokens([AddedToken(token, normalized=False) for token in tokens[:3]])
    tokenizer = LlamaTokenizerFast(tokenizer_object=made)
    tokenizer.save_pretrained(folder)
    return tokenizer


def opt(folder):
    learned = Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>", "<unk>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    learned.train_from_iterator(CORPUS, trainer)
    learned.model.save(str(folder))
    tokenizer = GPT2Tokenizer(
        folder / "vocab.json", folder / "merges.txt", bos_token="</s>", eos_token="</s>", unk_token="</s>", pad_token="<pad>")
    tokenizer.save_pretrained(folder)
    assert not (folder / "tokenizer.json").exists()
    return tokenizer


def encode(tokenizer, text, **options):
    return tokenizer.encode(text, add_special_tokens=False, **options)


def main():
    shutil.rmtree(FOLDER, ignore_errors=True)
    golden = {}
    for name, make in (("neox", neox), ("llama", llama), ("opt", opt)):
        folder = FOLDER / name
        folder.mkdir(parents=True)
        tokenizer = make(folder)
        cases = [{"text": text, "ids": encode(tokenizer, text)} for text in TEXTS]
        for case in cases:
            case["plain"] = encode(tokenizer, case["text"], split_special_tokens=True)
        vocabulary = len(tokenizer)
        tokenizer.add_special_tokens({"additional_special_tokens": ADDED})
        if tokenizer.pad_token is None:
            tokenizer.add_special_tokens({"pad_token": "<PAD>"})
        for case in cases:
            case["added"] = encode(tokenizer, case["text"])
        golden[name] = {
            "vocabulary": vocabulary, "added_vocabulary": len(tokenizer), "bos": tokenizer.bos_token_id,
            "eos": tokenizer.eos_token_id, "pad": tokenizer.pad_token, "cases": cases,
        }
        for unused in folder.glob("chat_template*"):
            unused.unlink()
        print(name, vocabulary, len(tokenizer), cases[12:16])
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(value)}" for name, value in golden.items())
    (HERE / "tokenizers.json").write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
