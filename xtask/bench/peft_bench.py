"""Hugging Face's peft: eight requests with eight adapters in one mixed batch, and LoRA training, in f32 on torch."""

import importlib.metadata

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from common import CROWD, TOKENS, Bench, crowd_rate, timed

bench = Bench(f"peft {importlib.metadata.version('peft')}")
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# As `tributary_compute::bench::material` and `Plan` have them.
BATCH, SEQUENCE_TOKENS, STEPS = 4, 128, 4


def base():
    return AutoModelForCausalLM.from_pretrained(f"{bench.folder}/hf", dtype=torch.float32)


def ids(rows, length, seed):
    return torch.randint(10, 290, (rows, length), generator=torch.Generator().manual_seed(seed))


def crowd():
    model = PeftModel.from_pretrained(base(), f"{bench.folder}/adapters/0", adapter_name="0")
    for at in range(1, CROWD):
        model.load_adapter(f"{bench.folder}/adapters/{at}", adapter_name=str(at))
    model.eval()
    names = [str(at) for at in range(CROWD)]

    def answer(tokens=TOKENS, seed=[0]):
        seed[0] += 1
        prompt = ids(CROWD, 32, seed[0])
        with torch.inference_mode():
            out = model.generate(
                input_ids=prompt,
                attention_mask=torch.ones_like(prompt),
                adapter_names=names,
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=0,
            )
        return out.numel() - prompt.numel()

    answer(2)
    return crowd_rate(answer)


def training():
    lora = LoraConfig(r=16, lora_alpha=32, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base(), lora)
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)

    def step(seed):
        # One more token than is fed: every fed one has a target.
        tokens = ids(BATCH, SEQUENCE_TOKENS + 1, seed)
        logits = model(input_ids=tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return BATCH * SEQUENCE_TOKENS

    step(0)
    seconds, tokens = timed(lambda: sum(step(1 + at) for at in range(STEPS)))
    return tokens / seconds


torch.set_num_threads(torch.get_num_threads())
measures = {"crowd": ("crowd/f32/mixed", crowd), "train": ("train/f32", training)}
for part in bench.parts:
    measure, work = measures[part]
    try:
        bench.add(measure, work())
    except Exception as error:  # the row says why there is no figure
        bench.miss(measure, error)
bench.finish()
