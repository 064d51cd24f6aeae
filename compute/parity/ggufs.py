"""GGUF files: two small whole ones written by Python's `gguf`, and quantised models whose blocks both sides make."""

import json
import pathlib
import tempfile

import gguf
import numpy
import tokenizers
import torch
import transformers
from gguf import GGMLQuantizationType as Kind

import weights

# None begins with a space, which transformers reads otherwise than SentencePiece and llama.cpp do.
TEXTS = [
    "the old mill by the river",
    "the  mill\n\n12 345!",
    "Zoë's mill, 李雷 🦀",
    "",
    "don't THE'RE  x",
]
# Scales that keep weights near one tenth: the half-precision fields at their offsets in a block.
BLOCKS = {
    Kind.Q4_K: (256, 144, {0: 2.0**-12, 2: 2.0**-9}),
    Kind.Q6_K: (256, 210, {208: 2.0**-14}),
    Kind.Q8_0: (32, 34, {0: 2.0**-10}),
}


def blocks(name: str, shape: tuple[int, int], kind: Kind) -> numpy.ndarray:
    """Random blocks, (rows, bytes of a row). `tests/it/gguf.rs` has the same in Rust."""
    elements, length, scales = BLOCKS[kind]
    count = shape[0] * shape[1] // elements
    data = weights.words(name, (count * length + 7) // 8).view(numpy.uint8)[: count * length].reshape(count, length).copy()
    for offset, scale in scales.items():
        data[:, offset : offset + 2] = numpy.array([scale], dtype=numpy.float16).view(numpy.uint8)
    return data.reshape(shape[0], -1)


def header(writer: gguf.GGUFWriter, shape: dict) -> None:
    writer.add_context_length(64)
    writer.add_embedding_length(shape["hidden"])
    writer.add_block_count(1)
    writer.add_feed_forward_length(shape["inner"])
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_key_length(shape["head"])
    writer.add_value_length(shape["head"])
    writer.add_rope_dimension_count(shape["head"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(shape["vocab"])


def names(architecture: str, shape: dict) -> dict[str, tuple[int, ...]]:
    """Tensors and their shapes."""
    hidden, inner, head, vocab = shape["hidden"], shape["inner"], shape["head"], shape["vocab"]
    tensors = {"token_embd.weight": (vocab, hidden), "output_norm.weight": (hidden,)}
    if not shape["tied"]:
        tensors["output.weight"] = (vocab, hidden)
    block = {
        "attn_norm.weight": (hidden,),
        "ffn_norm.weight": (hidden,),
        "attn_q.weight": (4 * head, hidden),
        "attn_k.weight": (2 * head, hidden),
        "attn_v.weight": (2 * head, hidden),
        "attn_output.weight": (hidden, 4 * head),
        "ffn_gate.weight": (inner, hidden),
        "ffn_up.weight": (inner, hidden),
        "ffn_down.weight": (hidden, inner),
    }
    if architecture == "qwen2":
        block |= {"attn_q.bias": (4 * head,), "attn_k.bias": (2 * head,), "attn_v.bias": (2 * head,)}
    if architecture == "qwen3":
        block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
    return tensors | {f"blk.0.{name}": shape for name, shape in block.items()}


def add_tensors(writer: gguf.GGUFWriter, architecture: str, shape: dict, kind: Kind, embedding: Kind) -> None:
    for name, sides in names(architecture, shape).items():
        stored = embedding if "embd" in name or name == "output.weight" else kind
        if len(sides) == 1:
            writer.add_tensor(name, weights.values(name, list(sides)))
        elif stored in BLOCKS:
            writer.add_tensor(name, blocks(name, sides, stored), raw_dtype=stored)
        else:
            writer.add_tensor(name, weights.values(name, list(sides)).astype(numpy.float16))


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def logits(folder: pathlib.Path, name: str, tokens: list[int]) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32, attn_implementation="eager")
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().contiguous()


def quantised(golden: pathlib.Path, write) -> None:
    """Logits of models whose blocks are random; the test makes the same file again."""
    tokens = [(at * 23 + 7) % 64 for at in range(12)]
    cases = {
        "gguf-llama-q4k": ("llama", Kind.Q4_K, Kind.Q6_K, False),
        "gguf-qwen2-q6k": ("qwen2", Kind.Q6_K, Kind.Q8_0, True),
        "gguf-qwen3-q8": ("qwen3", Kind.Q8_0, Kind.Q4_K, True),
        "gguf-llama-f16": ("llama", Kind.F16, Kind.F16, False),
    }
    for case, (architecture, kind, embedding, tied) in cases.items():
        # transformers knows no width of heads from a Qwen3 GGUF and takes 128.
        shape = dict(hidden=256, inner=256, head=128 if architecture == "qwen3" else 64, vocab=64, tied=tied)
        with tempfile.TemporaryDirectory() as folder:
            writer = gguf.GGUFWriter(pathlib.Path(folder) / "model.gguf", architecture)
            header(writer, shape)
            add_tensors(writer, architecture, shape, kind, embedding)
            finish(writer)
            tensors = [(name, list(sides)) for name, sides in names(architecture, shape).items()]
            kinds = [kind.name, embedding.name]
            write(golden / f"{case}.safetensors", {"logits": logits(pathlib.Path(folder), "model.gguf", tokens)}, architecture=architecture, tokens=tokens, tensors=tensors, kinds=kinds)


def sentence_piece_vocabulary() -> tuple[list[str], list[float], list[int]]:
    control, normal, unknown, byte = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL, gguf.TokenType.UNKNOWN, gguf.TokenType.BYTE
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{value:02X}>" for value in range(256)]
    types = [unknown, control, control] + [byte] * 256
    pieces = ["▁t", "he", "▁the", "er", "in", "▁m", "ill", "▁mill", "il", "ll", "▁ri", "ver", "▁river", "▁o", "ld", "▁old", "▁b", "▁by", "▁▁", "riv", "ri", "ve"]
    pieces += list("▁abcdefghijklmnopqrstuvwxyz1234!',THE")
    scores = [0.0] * len(tokens) + [-float(at) for at in range(len(pieces))]
    return tokens + pieces, scores, types + [normal] * len(pieces)


def whole(golden: pathlib.Path) -> None:
    """Files of Python's gguf with tokenizers, and what `transformers` makes of both."""
    tokens, scores, types = sentence_piece_vocabulary()
    writer = gguf.GGUFWriter(golden / "spm.gguf", "llama")
    shape = dict(hidden=32, inner=32, head=8, vocab=len(tokens), tied=True)
    header(writer, shape)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores(scores)
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(True)
    writer.add_chat_template("{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}")
    add_tensors(writer, "llama", shape, Kind.Q8_0, Kind.Q8_0)
    finish(writer)

    bpe = tokenizers.Tokenizer(tokenizers.models.BPE())
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["the old mill by the old river don't they're the mill 12 12 123"] * 4, trainer)
    model = json.loads(bpe.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    extra = ["<|endoftext|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(golden / "bpe.gguf", "qwen2")
    shape = dict(hidden=32, inner=32, head=8, vocab=len(tokens) + 2, tied=True)
    header(writer, shape)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens + extra)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(tokens) + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges([" ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 1)
    writer.add_add_bos_token(False)
    add_tensors(writer, "qwen2", shape, Kind.Q8_0, Kind.F16)
    finish(writer)

    told = {}
    for name in ["spm", "bpe"]:
        tokenizer = transformers.AutoTokenizer.from_pretrained(golden, gguf_file=f"{name}.gguf")
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]
        example = [(at * 7 + 3) % 280 for at in range(10)]
        told[name] = dict(
            texts=TEXTS,
            ids=ids,
            decoded=[tokenizer.decode(one) for one in ids],
            tokens=example,
            logits=[round(value, 6) for value in logits(golden, f"{name}.gguf", example)[-1].tolist()],
        )
        print(f"{name}.gguf: {(golden / f'{name}.gguf').stat().st_size} bytes")
        (golden / f"{name}.gguf").chmod(0o644)
    (golden / "gguf.json").write_text(json.dumps(told, ensure_ascii=False, indent=1) + "\n")
