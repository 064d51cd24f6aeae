"""Writes the golden files that the normal tests read: logits of `transformers` and `peft` on small random models.

    python golden.py OUR_FOLDER GOLDEN_FOLDER

OUR_FOLDER is what `cargo run -p tributary-compute --example parity_export` wrote; beside it a folder `theirs` is written,
which `--example parity_check` reads. `cargo xtask parity` calls all three.
"""

import json
import math
import pathlib
import sys
import tempfile

import numpy
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file

import chats
import folders
import ggufs
import weights

TOKENS = [(at * 23 + 7) % 64 for at in range(24)]
SHAPE = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    vocab_size=64,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    bos_token_id=1,
    eos_token_id=2,
)
LLAMA, MISTRAL = transformers.LlamaConfig, transformers.MistralConfig
QWEN2, QWEN3 = transformers.Qwen2Config, transformers.Qwen3Config


def rope(kind: str, theta: float, **more) -> dict:
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


LLAMA3 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
CASES = {
    "llama": (LLAMA, {}),
    "llama-tied-linear": (LLAMA, dict(tie_word_embeddings=True, num_key_value_heads=4, **rope("linear", 1e4, factor=4.0))),
    "llama-llama3": (LLAMA, dict(**rope("llama3", 5e2, **LLAMA3))),
    "llama-yarn": (LLAMA, dict(**rope("yarn", 1e4, factor=4.0, original_max_position_embeddings=32))),
    "mistral": (MISTRAL, dict(sliding_window=None, head_dim=12)),
    "mistral-window": (MISTRAL, dict(sliding_window=5)),
    "qwen2": (QWEN2, dict(tie_word_embeddings=True, eos_token_id=[2, 3])),
    "qwen2-window": (QWEN2, dict(use_sliding_window=True, sliding_window=6, max_window_layers=1)),
    "qwen2-yarn": (QWEN2, dict(**rope("yarn", 1e6, factor=2.0, original_max_position_embeddings=64, truncate=False))),
    "qwen3": (QWEN3, dict(head_dim=16, **rope("default", 1e6))),
    "qwen3-tied-window": (QWEN3, dict(head_dim=8, tie_word_embeddings=True, use_sliding_window=True, sliding_window=4, max_window_layers=0)),
}


def logits_of(model, tokens: list[int]) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().contiguous()


def make(config) -> torch.nn.Module:
    config._attn_implementation = "eager"
    return transformers.AutoModelForCausalLM.from_config(config).float()


def write(path: pathlib.Path, arrays: dict, **texts) -> None:
    """One file: arrays and, under one name of its header (several have no fixed order), all texts."""
    save_file(arrays, path, metadata={"golden": json.dumps(texts, sort_keys=True)})
    path.chmod(0o644)
    print(f"{path.name}: {path.stat().st_size} bytes")


def families(golden: pathlib.Path) -> None:
    for name, (kind, more) in CASES.items():
        config = kind(**{**SHAPE, **more})
        model = make(config)
        tensors = weights.fill(model)
        saved = json.loads(config.to_json_string())
        saved["architectures"] = [type(model).__name__]
        write(golden / f"{name}.safetensors", {"logits": logits_of(model, TOKENS)}, config=saved, tokens=TOKENS, tensors=tensors)


def their_adapter(golden: pathlib.Path, name: str, **more) -> None:
    """An adapter made and saved by peft, and the logits it gives."""
    model = make(LLAMA(**SHAPE))
    base = weights.fill(model)
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **more)
    adapted = peft.get_peft_model(model, lora)
    with torch.no_grad():
        for parameter_name, parameter in adapted.named_parameters():
            if "lora_" in parameter_name:
                stored = parameter_name.replace(".default", "")
                parameter.copy_(torch.from_numpy(weights.values(stored, list(parameter.shape))))
    logits = logits_of(adapted, TOKENS)
    with tempfile.TemporaryDirectory() as folder:
        adapted.save_pretrained(folder)
        files = load_file(pathlib.Path(folder) / "adapter_model.safetensors")
        config = (pathlib.Path(folder) / "adapter_config.json").read_text()
    for stored, tensor in files.items():
        if "lora_" in stored and "magnitude" not in stored:
            assert numpy.array_equal(tensor.numpy(), weights.values(stored, list(tensor.shape))), stored
    write(
        golden / f"{name}.safetensors",
        {"logits": logits},
        config=json.loads(LLAMA(**SHAPE).to_json_string()),
        tokens=TOKENS,
        tensors=base,
        adapter_config=config,
        adapter_tensors=[(stored, list(tensor.shape)) for stored, tensor in files.items()],
    )


def our_adapter(ours: pathlib.Path, golden: pathlib.Path) -> None:
    """Our adapter's files in peft: the same logits as ours."""
    model = transformers.AutoModelForCausalLM.from_pretrained(ours / "base", attn_implementation="eager")
    told = json.loads((ours / "told.json").read_text())
    plain = logits_of(model, told["tokens"])
    adapted = peft.PeftModel.from_pretrained(model, ours / "adapter")
    logits = logits_of(adapted, told["tokens"])
    difference = (logits - torch.tensor(told["logits"]).reshape(logits.shape)).abs().max().item()
    assert difference < 1e-4, f"peft's logits on our adapter differ by {difference}"
    assert (plain - logits).abs().max().item() > 0.05, "the adapter changes nothing"
    print(f"our adapter in peft: logits within {difference:.1e}")
    write(golden / "our-adapter.safetensors", {"logits": logits}, adapter=told["adapter"])


def training(ours: pathlib.Path, golden: pathlib.Path) -> None:
    """Fifty steps from our initial adapter on our batches, with torch's AdamW and our schedule."""
    told = json.loads((ours / "training.json").read_text())
    recipe = told["recipe"]
    model = transformers.AutoModelForCausalLM.from_pretrained(ours / "base", attn_implementation="eager")
    model = peft.PeftModel.from_pretrained(model, ours / "initial", is_trainable=True)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=recipe["lr"], betas=(0.9, 0.99), eps=1e-8, weight_decay=recipe["weight_decay"])
    losses = []
    for step in range(recipe["steps"]):
        if step < recipe["warmup"]:
            share = (step + 1) / recipe["warmup"]
        else:
            past = (step - recipe["warmup"]) / (recipe["steps"] - recipe["warmup"])
            share = 0.5 * (1.0 + math.cos(math.pi * past))
        for group in optimiser.param_groups:
            group["lr"] = recipe["lr"] * share
        total, count = 0.0, 0
        for example in told["examples"]:
            tokens, completion = example["tokens"], example["completion"]
            logits = model(torch.tensor([tokens])).logits[0]
            predicted = torch.nn.functional.cross_entropy(logits[-completion - 1 : -1], torch.tensor(tokens[-completion:]), reduction="sum")
            total, count = total + predicted, count + completion
        loss = total / count
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["clip"])
        optimiser.step()
        losses.append(loss.item())
    print(f"training: {losses[0]:.4f} to {losses[-1]:.4f}")
    write(golden / "training.safetensors", {"losses": torch.tensor(losses)}, initial=told["initial"])


def main() -> None:
    ours, golden = map(pathlib.Path, sys.argv[1:3])
    torch.manual_seed(0)
    torch.set_num_threads(1)
    golden.mkdir(parents=True, exist_ok=True)
    families(golden)
    their_adapter(golden, "peft-lora")
    their_adapter(golden, "peft-rslora", use_rslora=True)
    their_adapter(golden, "peft-dora", use_dora=True)
    chats.write(golden)
    ggufs.quantised(golden, write)
    ggufs.whole(golden)
    folders.write(ours.parent / "theirs", CASES, SHAPE, logits_of)
    if (ours / "told.json").exists():
        our_adapter(ours, golden)
        training(ours, golden)


if __name__ == "__main__":
    main()
