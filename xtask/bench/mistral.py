"""mistral.rs (PyPI `mistralrs`): one stream, with and without an adapter."""

import importlib.metadata

from common import Bench, decode_rate

import mistralrs
from mistralrs import CompletionRequest, LoraAdapter, ModelDType, Runner, Which

bench = Bench(f"mistral.rs {importlib.metadata.version('mistralrs')}")


def runner(form, adapter):
    adapters = [LoraAdapter("one", f"{bench.folder}/adapters/0")] if adapter else None
    if form == "f32":
        path = f"{bench.folder}/hf"
        which = (
            Which.Lora(path, adapters=adapters, dtype=ModelDType.F32)
            if adapter
            else Which.Plain(path, dtype=ModelDType.F32)
        )
    else:
        folder = f"{bench.folder}/gguf"
        which = Which.GGUF(folder, f"{form}.gguf", dtype=ModelDType.F32, adapters=adapters)
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
        except Exception as error:  # the row says why there is no figure
            bench.miss(f"decode/{form}/{kind}", error)
bench.finish()
