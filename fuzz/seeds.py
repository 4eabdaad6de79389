"""Writes the seeds of the fuzz targets: small inputs that each parser takes, and some that it must refuse."""

import json
import struct
from pathlib import Path

SEEDS = Path(__file__).parent / "seeds"


def seed(target, name, content):
    path = SEEDS / target / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


# ---- messages ----

job = {
    "schema": "flamingo.job/1",
    "job_id": "birds",
    "tasks": [{"kind": "caption"}, {"kind": "question", "question": "What bird?"}],
    "input": {"prefix": {"url": "s3://videos/birds/", "glob": "**/*.{mp4,webm}"}},
    "sampling": {"fps": {"fps": 1.5, "start": 0.25, "end": 60.0}},
    "window": 8.0,
    "max_frames": 64,
    "generation": {"strategy": {"kind": "beam", "beams": 3, "length_penalty": 0.5}, "max_new_tokens": 32},
    "model": "flamingo-mini",
    "output": "team/birds",
    "not_before": "2026-12-24T18:00:00Z",
    "deadline": "2026-12-25T06:00:00.123456789Z",
    "metadata": {"asked by": "Ann"},
    "reply_to": "answers",
    "correlation_id": "66",
}
short = {"schema": "flamingo.job/1", "idempotency_key": "order 66"}
complete = {"kind": "complete", "prompt": "<video>Output:"}
sampled = {"strategy": {"kind": "sample", "temperature": 0.7, "top_k": 5, "top_p": 0.9, "seed": 7}}
item = {
    "schema": "flamingo.item/1",
    "job_id": "birds",
    "item_id": "a.mp4",
    "custom_id": "clip 17",
    "video": "s3://videos/birds/a.mp4",
    "etag": "\"66\"",
    "tasks": [{"kind": "caption"}],
    "sampling": {"uniform": {"n": 8}},
    "max_frames": 64,
    "generation": {"strategy": {"kind": "greedy"}, "max_new_tokens": 3},
}
seed("message", "job", json.dumps(job))
seed("message", "video", json.dumps(short | {"tasks": [complete], "input": {"video": "clips/a.mp4"}}))
seed("message", "videos", json.dumps(
    short | {"tasks": job["tasks"], "input": {"videos": ["file:///v/a.mp4", "s3://v/b.mp4"]}, "generation": sampled}))
seed("message", "manifest", json.dumps(
    short | {"tasks": job["tasks"], "input": {"manifest": "s3://v/m.jsonl"}, "not_before": "90s", "deadline": "1h 30m"}))
seed("message", "unfinished", json.dumps(short | {"tasks": job["tasks"], "input": {"unfinished_of": "birds"}}))
seed("message", "item", json.dumps(item))
seed("message", "newer", json.dumps({"schema": "flamingo.job/2", "more": 1}))

# ---- manifests ----

lines = [
    {"custom_id": "clip 17", "video": "s3://videos/open/17.mp4", "question": "Is it flying?"},
    {"custom_id": "b.mp4", "video": "/videos/b.mp4", "tasks": [{"kind": "caption"}, complete]},
    {"custom_id": "ä/ö", "video": "file:///videos/c d.mp4"},
]
seed("manifest", "lines", "".join(json.dumps(line) + "\n" for line in lines))
seed("manifest", "dots", json.dumps({"custom_id": "a/-.b c" + "d" * 117, "video": "/videos/b.mp4"}))
seed("manifest", "gaps", "\n \r\n" + json.dumps(lines[2], ensure_ascii=False) + "\n\n")
seed("manifest", "twice", 2 * (json.dumps(lines[0]) + "\n"))
seed("manifest", "outside", json.dumps({"custom_id": "x", "video": "s3://videos/openly/x.mp4"}))

# ---- settings ----

seed("settings", "local", '[worker]\nitems = 5\nlease = "30s"\nheartbeat = "5s"\n[model]\npath = "models/m"\n')
seed("settings", "remote", """[queue]
url = "amqp://me:queueword1@h:5672/v"
retry_delays = ["1s", "2m"]
[database]
url = "postgres://me:baseword22@h/db"
[store]
url = "s3://b/p"
[inputs]
allow = ["s3://videos"]
[decoder]
sandbox = "best"
""")
for name, table, key in [
    ("sandbox", "decoder", "sandbox"), ("lease", "worker", "lease"), ("items", "worker", "items"),
    ("allow", "inputs", "allow"), ("delays", "queue", "retry_delays"), ("declare", "queue", "declare"),
]:
    seed("settings", f"misplaced_{name}", f'[{table}]\n{key} = "amqp://me:misplaced1@h/v"\n')
seed("settings", "misplaced_table", 'queue = "amqp://me:misplaced1@h/v"\n')
seed("settings", "listed", '[inputs]\nallow = ["s3://videos", "s3://me:misplaced1@h"]\n')
seed("settings", "broken", '[queue]\nurl = "amqp://me:misplaced1@h/v\n')

# ---- weights ----

header = {"a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
          "b": {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}, "__metadata__": {"format": "pt"}}
header = json.dumps(header).encode()
seed("weights", "safetensors", struct.pack("<Q", len(header)) + header + bytes(range(32)))


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def meta(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def array(kind, values):
    return struct.pack("<IQ", kind, len(values)) + b"".join(values)


def size(value):
    return struct.pack("<I", value)


def tensor(name, dims, kind, offset):
    return text(name) + size(len(dims)) + b"".join(struct.pack("<Q", d) for d in dims) + struct.pack("<IQ", kind, offset)


tokens = ["a", "b", "ab", "<image>"]
metadata = [
    meta("general.architecture", 8, text("llama")),
    meta("general.alignment", 4, size(32)),
    meta("llama.embedding_length", 4, size(32)),
    meta("llama.attention.head_count", 4, size(2)),
    meta("llama.feed_forward_length", 4, size(64)),
    meta("llama.block_count", 4, size(1)),
    meta("llama.context_length", 10, struct.pack("<Q", 64)),
    meta("llama.attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5)),
    meta("tokenizer.ggml.model", 8, text("gpt2")),
    meta("tokenizer.ggml.pre", 8, text("smollm")),
    meta("tokenizer.ggml.tokens", 9, array(8, [text(t) for t in tokens])),
    meta("tokenizer.ggml.token_type", 9, array(5, [size(t) for t in (1, 1, 1, 3)])),
    meta("tokenizer.ggml.merges", 9, array(8, [text("a b")])),
    meta("tokenizer.ggml.bos_token_id", 4, size(3)),
]


def gguf(version, metadata, tensors, data):
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata)) + b"".join(metadata + tensors)
    return head + bytes(-len(head) % 32) + data


tensors = [tensor("output_norm.weight", [6], 0, 0), tensor("token_embd.weight", [32, 2], 8, 32)]
seed("weights", "gguf", gguf(3, metadata, tensors, bytes(32) + bytes(range(68)) + bytes(32)))
seed("weights", "gguf_small", gguf(2, metadata[:2], tensors[:1], bytes(64)))
seed("weights", "gguf_alignment_zero", gguf(3, [meta("general.alignment", 4, size(0))], tensors[:1], bytes(64)))


def word(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


storage = b"((" + word("storage") + b"ctorch\nFloatStorage\n" + word("0") + word("cpu") + b"K\x40tQ"
rebuilt = storage + b"K\x04K\x02K\x03\x86q\x01K\x03K\x01\x86\x89ccollections\nOrderedDict\n)RtR"
entry = b"ctorch._utils\n_rebuild_tensor_v2\n" + rebuilt
seed("weights", "pickle", b"\x80\x02}q\x00(" + word("a") + entry + word("b") + entry + b"u.")
seed("weights", "pickle_wrapped", b"\x80\x02}" + word("model_state_dict") + b"}" + word("a") + entry + b"ss.")
seed("weights", "pickle_without_arguments", b"\x80\x02}" + word("a") + b"ctorch._utils\n_rebuild_tensor_v2\n)Rs.")
seed("weights", "pickle_doubling", b"\x80\x02]q\x00" + 40 * b"h\x00h\x00\x86q\x00" + b".")
seed("weights", "pickle_nested", b"\x80\x02)" + 300 * b"\x85" + b".")
seed("weights", "pickle_long_text", b"\x80\x02X\xff\xff\xff\xffab.")

# ---- first bytes and packets ----

ts = bytearray(188 * 3)
ts[0] = ts[188] = ts[376] = 0x47
ts[3] = ts[191] = ts[379] = 0x10
gif_frame = b"\x21\xf9\x04\x04\x0a\0\0\0\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + 4 * b"\0"


def webp_chunk(name, body):
    return name + struct.pack("<I", len(body)) + body + len(body) % 2 * b"\0"


png_frames = chunk(b"fcTL", 20 * b"\0" + b"\0\x01\0\x0a\0\0") + chunk(b"IDAT", b"ab") + chunk(b"fcTL", 26 * b"\0")
png_frames += chunk(b"fdAT", b"\0\0\0\x01ab") + chunk(b"IEND", b"")
frames = 2 * webp_chunk(b"ANMF", 12 * b"\0" + b"\x64\0\0\0" + webp_chunk(b"VP8L", b"abc"))
heads = {
    "mov": b"\0\0\0\x20ftypisom\0\0\x02\0", "matroska": b"\x1a\x45\xdf\xa3\x82xx\x18\x53\x80\x67\x10\0\x01\x02rest",
    "avi": b"RIFF\x10\x27\0\0AVI LIST", "webp": b"RIFF\x10\x27\0\0WEBPVP8 ", "ts": bytes(ts),
    "ts_offset": bytes(ts[100:]) + bytes(ts), "bmp": b"BM\x36\xb4\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", "tiff": b"II*\0\x08\0\0\0",
    "jpeg": b"\xff\xd8\xff\xc2\0\x0b\x08\0\x10\0\x10\x01\x01\x11\0\xff\xda\0\x08\x01\x01\0\0\0\x10ab\xff\0c\xff\xd0d\xff\xd9",
    "gif_animated": b"GIF89a\x01\0\x01\0\x80\0\0\xff\0\0\0\0\xff" + 2 * gif_frame + b"\x3b",
    "png_animated": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", 13 * b"\x08") + chunk(b"acTL", 3 * b"\0" + b"\x02" + 4 * b"\0") + png_frames,
    "webp_animated": b"RIFF\x10\0\0\0WEBP" + webp_chunk(b"VP8X", 10 * b"\x02") + frames,
    "png": b"\x89PNG\r\n\x1a\n", "hls": b"\xef\xbb\xbf\n #EXTM3U\n", "dash": b'<?xml version="1.0"?>\n<MPD xmlns=',
}
for name, head in heads.items():
    seed("sniff", name, head)
# Which codec, how long its extra data are (and whether the container says "key"), the extra data, a packet.
avc = bytes([1, 100, 0, 31, 0xFF])
packets = {
    "h264": (0, avc, b"\0\0\0\x01\x06\0\0\0\x02\x65\x09"), "h264_start_codes": (0, b"", b"\0\0\0\x01\x09\xf0\0\0\x01\x65\x07"),
    "hevc": (1, bytes([1]) + bytes(20) + b"\x03", b"\0\0\0\x03\x26\x01\x05\0\0\0\x02\x02\x03"), "vp8": (2, b"", b"\x10"),
    "vp9": (3, b"", b"\x82"), "av1": (4, b"", b"\x12\0\x0a\x01\0\x32\x01\x10"), "mpeg4": (5, b"", b"\0\0\x01\xb6\x10\0"),
    "mpeg2": (6, b"", b"\0\0\x01\0\0\x18\0\0\x01\xb5\x01"), "mjpeg": (7, b"", b"\xff\xd8"),
}
for name, (codec, extra, packet) in packets.items():
    seed("sniff", f"packet_{name}", bytes([codec, len(extra) << 1 | 1]) + extra + packet)


# ---- packet times: pts, dts, and a byte whose bit 0 means "no dts" and whose other bits are the duration ----


def packets_at(times):
    return b"".join(struct.pack("<qqB", pts, dts, 40 << 1) for pts, dts in times)


steady = [(40 * i, 40 * i) for i in range(30)]
seed("times", "steady", packets_at(steady))
seed("times", "restart", packets_at(steady + steady))
seed("times", "jump", packets_at(steady + [(pts + (1 << 32), dts + (1 << 32)) for pts, dts in steady]))
seed("times", "outlier", packets_at(steady[:12] + [(1 << 40, 480)] + steady[13:]))
seed("times", "extremes", packets_at([(-(1 << 63), 0), ((1 << 63) - 1, -(1 << 63)), (0, (1 << 63) - 1)] * 9))

# ---- the decoder's child ----


def said(head, pixels=b""):
    head = json.dumps(head).encode()
    return struct.pack("<I", len(head)) + head + pixels


ready = said({"ready": {"system_calls": True, "files": False}})
info = said({"info": {
    "container": "mov", "codec": "h264", "width": 3, "height": 2, "orientation": {"clockwise_degrees": 90, "mirrored": True}, "duration": 1.5, "frames": 30,
    "average_fps": 29.97, "start_pts": -0.021}})
moments = {"start": 0.0, "rate": 2.0, "indices": {"start": 0, "end": 3}}
frame = said({"frame": {"pts": 0.1, "moments": moments, "width": 3, "height": 2}}, bytes(range(18)))
summary = {"picked": 2, "decoded": 9, "skipped": 4, "warnings": ["missing_pts", {"broken_tail": {"readable_until": 1.25, "reason": "cut"}}]}
seed("wire", "video", ready + info + frame + frame + said({"end": summary}))
seed("wire", "refused", ready + said({"failed": {"code": "no_frames", "message": "nothing decodes"}}))
seed("wire", "no_pixels", ready + info + said({"frame": {"pts": 0.0, "moments": moments, "width": 65536, "height": 65536}}))
