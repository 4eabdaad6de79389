"""Writes the golden of the text tower, text_tower.safetensors: sentences of different lengths and the mean of their
last hidden states over the real tokens. The reference is transformers' BertModel, all sentences in one padded batch.

    pip install torch transformers safetensors
    python generate_text_tower.py

Made with torch 2.15.0, transformers 5.23.0, tokenizers 0.23.3.
"""

import os
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from safetensors.torch import save_file
from transformers import AutoModel, AutoTokenizer

HERE = Path(__file__).resolve().parent
MODEL = HERE.parents[2] / "models" / "text" / "all-MiniLM-L6-v2"
TEXTS = [
    "A red circle moves from left to right.",
    "dog",
    "Two dogs, one of them large and brown, chase a frisbee across a snow-covered field while a child is watching.",
    " ".join(["a green square turns, then stops;"] * 60),  # longer than what is read
    "Ein Mädchen läuft über die Straße – 3 ½ mal 🙂",
    "",
]


def main():
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    model = AutoModel.from_pretrained(MODEL, dtype=torch.float32, attn_implementation="eager").eval()
    batch = tokenizer(TEXTS, padding="longest", truncation=True, max_length=256, return_tensors="pt")
    mask = batch["attention_mask"]
    print("tokens:", mask.sum(1).tolist())
    with torch.no_grad():
        hidden = model(**batch).last_hidden_state
    means = (hidden * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True)
    texts = torch.tensor(list("\n".join(TEXTS).encode()), dtype=torch.uint8)
    save_file({"texts": texts, "means": means.contiguous()}, HERE / "text_tower.safetensors")


if __name__ == "__main__":
    main()
