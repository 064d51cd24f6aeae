"""The official Python client against a node of a demo that runs; the node's folder is the only argument."""

import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

notice = json.loads((pathlib.Path(sys.argv[1]) / "api.json").read_text())
base_url = f"http://{notice['address']}/v1"
client = openai.OpenAI(base_url=base_url, api_key=notice["token"], max_retries=0)

models = sorted(model.id for model in client.models.list())
assert models == ["demo", *(f"small-{number}" for number in range(1, 8))], models
assert client.models.retrieve("demo").id == "demo"

QUESTION = "Remind me who owns the Nevkettle."
whole = client.completions.create(model="demo", prompt=QUESTION, temperature=0)
assert whole.choices[0].text, whole
assert whole.usage.completion_tokens > 0 and whole.usage.prompt_tokens > 0, whole.usage
shares = sum(share["weight"] for share in whole.tributary["shares"]) + whole.tributary["commons"]
assert shares == 1_000_000, whole.tributary


def streamed(model):
    stream = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    text, usage, finish = "", None, None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            text += choice.delta.content or ""
            finish = choice.finish_reason or finish
    return text, usage.completion_tokens, finish


expected = (whole.choices[0].text, whole.usage.completion_tokens, "stop")
with ThreadPoolExecutor(8) as pool:
    for answer in pool.map(streamed, ["demo"] * 8):
        assert answer == expected, (answer, expected)
    # From eight adapters at once, and each as when it is asked alone.
    together = list(pool.map(streamed, models))
assert together == [streamed(model) for model in models], together
assert len({text for text, _, _ in together}) > 1, together

# What a client may ask for is honoured.
stop = whole.choices[0].text[2:4]
cut = client.completions.create(model="demo", prompt=QUESTION, temperature=0, stop=[stop]).choices[0].text
assert cut == whole.choices[0].text.split(stop)[0], (cut, stop)
drawn = {"model": "demo", "prompt": "The", "max_tokens": 24, "seed": 5, "top_p": 0.9, "frequency_penalty": 0.5}
assert client.completions.create(**drawn).choices[0].text == client.completions.create(**drawn).choices[0].text
schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
shaped = client.chat.completions.create(
    model="demo",
    messages=[{"role": "user", "content": QUESTION}],
    response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
)
assert json.loads(shaped.choices[0].message.content)["n"] in (1, 2), shaped
# Probabilities, streamed or not, are the same numbers for the same text.
told = client.completions.create(model="demo", prompt=QUESTION, temperature=0, logprobs=3).choices[0]
assert told.text == whole.choices[0].text and "".join(told.logprobs.tokens) == told.text, told
assert all(value <= 0 for value in told.logprobs.token_logprobs), told.logprobs
assert all(name in top for name, top in zip(told.logprobs.tokens, told.logprobs.top_logprobs)), told.logprobs
assert told.logprobs.text_offset[0] == 0 and len(told.logprobs.text_offset) == len(told.logprobs.tokens), told.logprobs
asked = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}], "temperature": 0}
content = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3).choices[0].logprobs.content
assert [one.token for one in content] == told.logprobs.tokens, content
assert [one.logprob for one in content] == told.logprobs.token_logprobs, content
assert bytes(byte for one in content for byte in one.bytes).decode() == told.text, content
assert all(len(one.top_logprobs) == 3 and one.top_logprobs[0].logprob == one.logprob for one in content), content
pieces = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3, stream=True)
pieces = [choice.logprobs for chunk in pieces for choice in chunk.choices if choice.logprobs]
assert [one.model_dump() for piece in pieces for one in piece.content] == [one.model_dump() for one in content], pieces
near, far, same = (
    one.embedding for one in client.embeddings.create(model="demo", input=["a harbour", "a toad", "a harbour"]).data
)
assert near == same != far and abs(sum(value * value for value in near) - 1) < 1e-3, near

message = client.chat.completions.create(
    model="demo", messages=[{"role": "user", "content": QUESTION}], temperature=0
).choices[0].message
assert message.annotations[0].url_citation.title.startswith("contributor "), message

# A client that goes away in the middle harms nobody.
stream = client.completions.create(model="demo", prompt=QUESTION, temperature=0, stream=True)
next(iter(stream))
stream.close()


def refused(error, **changes):
    request = {"model": "demo", "prompt": QUESTION} | changes
    try:
        client.completions.create(**request)
    except error:
        return
    raise AssertionError(f"{changes} was not refused with {error.__name__}")


refused(openai.NotFoundError, model="no such model")
refused(openai.BadRequestError, n=2)
refused(openai.BadRequestError, logprobs=21)
refused(openai.BadRequestError, extra_body={"tools": [{"type": "function", "function": {"name": "f"}}]})
refused(openai.BadRequestError, prompt="river " * 5_000)
refused(openai.BadRequestError, prompt="")
refused(openai.BadRequestError, extra_body={"price_max": "1"})
try:
    openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key was taken")
except openai.AuthenticationError:
    pass
print("the Python client works:", whole.choices[0].text.strip())
