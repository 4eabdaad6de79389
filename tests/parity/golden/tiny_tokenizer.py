"""A tokenizer of LLaMA's type with a few hundred tokens: byte-level fallback, `▁` for spaces and at the start of a text."""

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import LlamaTokenizerFast

CORPUS = [
    "User: Describe this image. Assistant: An image of two kittens in the grass.",
    "Question: What is in this picture? Answer: the man rides a horse on the beach",
    "Two people are cooking in a kitchen. A dog runs along the beach.",
]
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained(size):
    """Vocabulary and merges of byte pairs over the corpus, after the special tokens and the bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer()
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL + bytes_, show_progress=False))
    vocabulary = tokenizer.get_vocab()
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return vocabulary, [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in merges]


def normalizer():
    return normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])


def tiny(folder, size, added):
    """Writes the tokenizer into `folder`: `size` tokens and then the special tokens `added`."""
    vocabulary, merges = trained(size)
    assert len(vocabulary) == size and sorted(vocabulary.values()) == list(range(size))
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizer()
    # As in LLaMA's files of 2023: the special tokens are normalised, so the text after `<s>` begins without `▁`.
    tokenizer.add_special_tokens([AddedToken(token, normalized=True, special=True) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    fast = LlamaTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>", padding_side="left")
    fast.add_special_tokens({"additional_special_tokens": added})
    fast.save_pretrained(folder)
    return fast
