"""llama.cpp (PyPI `llama-cpp-python`): one stream, and eight adapters one after another, since it does not batch them."""

import ctypes
import importlib.metadata
import json
import os
import random
import subprocess
import sys

import llama_cpp
from llama_cpp import Llama

from common import CROWD, TOKENS, Bench, crowd_rate, decode_rate

bench = Bench(f"llama.cpp of llama-cpp-python {importlib.metadata.version('llama_cpp_python')}")
draw = random.Random(1)


def load(form):
    threads = os.cpu_count()
    path = f"{bench.folder}/gguf/{form}.gguf"
    return Llama(path, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)


def answer(model, tokens):
    """Greedy tokens after a prompt that was not asked before."""
    made = 0
    for _ in model.generate([draw.randrange(10, 290) for _ in range(32)], temp=0.0):
        made += 1
        if made == tokens:
            return made


def use(model, adapter):
    """That adapter, which is in memory, or none."""
    count = 0 if adapter is None else 1
    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    if llama_cpp.llama_set_adapters_lora(model._ctx.ctx, adapters, count, (ctypes.c_float * 1)(1.0)):
        raise RuntimeError("the adapter can't be set")


def crowd(model, adapters):
    made = 0
    for adapter in adapters:
        use(model, adapter)
        made += answer(model, TOKENS)
    return made


MEASURES = {"base": ["decode/{}/base"], "adapters": ["decode/{}/adapter", "crowd/{}/mixed"]}


def measure(form, stage):
    model = load(form)
    answer(model, 2)
    if stage == "base":
        bench.add(f"decode/{form}/base", decode_rate(lambda tokens: answer(model, tokens)))
        return
    paths = [f"{bench.folder}/adapters-gguf/{at}.gguf".encode() for at in range(CROWD)]
    adapters = [llama_cpp.llama_adapter_lora_init(model._model.model, path) for path in paths]
    if not all(adapters):
        raise RuntimeError("an adapter can't be read")
    use(model, adapters[0])
    answer(model, 2)
    bench.add(f"decode/{form}/adapter", decode_rate(lambda tokens: answer(model, tokens)))
    bench.add(f"crowd/{form}/mixed", crowd_rate(lambda: crowd(model, adapters)))


def apart(form, stage):
    """In a process of its own: with some weights the library ends the process that uses an adapter."""
    command = [sys.executable, __file__, bench.folder, f"{form}:{stage}"]
    ended = subprocess.run(command, capture_output=True, text=True)
    if ended.returncode == 0:
        bench.samples += json.loads(ended.stdout)
        return
    # Negative: the signal that ended it.
    why = f"ended by signal {-ended.returncode}" if ended.returncode < 0 else ended.stderr[-200:]
    for name in MEASURES[stage]:
        bench.miss(name.format(form), why)


for part in bench.parts:
    form, _, stage = part.partition(":")
    if stage:
        measure(form, stage)
    else:
        for stage in MEASURES:
            apart(form, stage)
bench.finish()
