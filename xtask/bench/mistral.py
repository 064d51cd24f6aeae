"""mistral.rs (PyPI `mistralrs`): one stream, with and without an adapter."""

import importlib.metadata
import json
import os
import tempfile

from common import Bench, decode_rate

from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which

bench = Bench(f"mistral.rs {importlib.metadata.version('mistralrs')}")


def folder():
    """The model's folder with an end token, which mistral.rs asks for and these requests ignore."""
    place = tempfile.mkdtemp()
    for name in os.listdir(f"{bench.folder}/hf"):
        os.symlink(f"{bench.folder}/hf/{name}", f"{place}/{name}")
    end = "<|endoftext|>"
    settings = {"bos_token": end, "eos_token": end, "unk_token": end, "chat_template": "{{ messages[0]['content'] }}"}
    with open(f"{place}/tokenizer_config.json", "w") as file:
        json.dump(settings, file)
    with open(f"{place}/generation_config.json", "w") as file:
        json.dump({"bos_token_id": 0, "eos_token_id": 0}, file)
    return place


def runner(form, adapter):
    adapters = [LoraAdapter("one", f"{bench.folder}/adapters/0")] if adapter else None
    if form == "f32":
        path = folder()
        which = (
            Which.Lora(path, adapters=adapters, dtype=ModelDType.F32)
            if adapter
            else Which.Plain(path, dtype=ModelDType.F32)
        )
    else:
        which = Which.GGUF(f"{bench.folder}/gguf", f"{form}.gguf", dtype=ModelDType.F32, adapters=adapters)
    return Runner(which, prefix_cache_n=0, no_paged_attn=True)


def rate(form, adapter):
    engine = runner(form, adapter)

    def answer(tokens):
        request = CompletionRequest(
            prompt=bench.prompt(),
            model="default",
            max_tokens=tokens,
            temperature=0.0,
            ignore_eos=True,
            adapter="one" if adapter else None,
        )
        return engine.send_completion_request(request).usage.completion_tokens

    answer(2)
    return decode_rate(answer)


for form in bench.parts:
    for kind in ("base", "adapter"):
        try:
            bench.add(f"decode/{form}/{kind}", rate(form, kind == "adapter"))
        except BaseException as error:  # the row says why there is no figure
            bench.miss(f"decode/{form}/{kind}", error)
bench.finish()
