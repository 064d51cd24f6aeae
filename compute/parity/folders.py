"""Whole folders as `save_pretrained` writes them, in shards, for our loader to read: `examples/parity_check.rs` compares."""

import json
import pathlib
import shutil

import tokenizers
import torch
import transformers

import chats
import weights

TEXTS = ["the old mill by the river", "Zoë's mill, 李雷 🦀 123", " don't"]


def tokenizer_of(begins: bool) -> transformers.PreTrainedTokenizerFast:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    inner.train_from_iterator(["the old mill by the old river grinds the grain"] * 4, trainer)
    if begins:
        inner.post_processor = tokenizers.processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.chat_template = chats.TEMPLATES["tools"]
    return tokenizer


def write(theirs: pathlib.Path, cases: dict, shape: dict, logits_of) -> None:
    shutil.rmtree(theirs, ignore_errors=True)
    for name, (kind, more) in cases.items():
        config = kind(**{**shape, **more, "vocab_size": 304, "bos_token_id": 0, "eos_token_id": 1})
        config._attn_implementation = "eager"
        begins = name.startswith(("llama", "mistral"))
        tokenizer = tokenizer_of(begins)
        # Half of them in bf16, as most models come: the logits are those of the rounded weights.
        model = transformers.AutoModelForCausalLM.from_config(config).float()
        weights.fill(model)
        if len(name) % 2:
            model = model.bfloat16()
        model.generation_config.eos_token_id = [1, 3]
        folder = theirs / name
        model.save_pretrained(folder, max_shard_size="20KB")
        tokenizer.save_pretrained(folder)
        # Read back, since rounding the model also rounded the frequencies that no file has.
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        ids = [tokenizer.encode(text) for text in TEXTS]
        talk = chats.CONVERSATIONS["calls"]
        told = dict(
            texts=TEXTS,
            ids=ids,
            logits=logits_of(model, ids[0]).flatten().tolist(),
            conversation=json.dumps(talk, ensure_ascii=False),
            rendered=tokenizer.apply_chat_template(talk["messages"], tools=talk["tools"], add_generation_prompt=True, tokenize=False),
            ends=[1, 3],
        )
        (folder / "told.json").write_text(json.dumps(told, ensure_ascii=False))
        files = len(list(folder.glob("*.safetensors")))
        print(f"{name}: {files} weight files, {sorted(path.name for path in folder.iterdir() if path.suffix in ['.json', '.jinja'])}")
