"""The official Python client against a node of a demo that runs; the node's folder is the only argument."""

import json
import pathlib
import sys
from concurrent.futures import ThreadPoolExecutor

import openai

notice = json.loads((pathlib.Path(sys.argv[1]) / "api.json").read_text())
base_url = f"http://{notice['address']}/v1"
client = openai.OpenAI(base_url=base_url, api_key=notice["token"], max_retries=0)

models = [model.id for model in client.models.list()]
assert models == ["demo"], models
assert client.models.retrieve("demo").id == "demo"

QUESTION = "Remind me who owns the Nevkettle."
whole = client.completions.create(model="demo", prompt=QUESTION, temperature=0)
assert whole.choices[0].text, whole
assert whole.usage.completion_tokens > 0 and whole.usage.prompt_tokens > 0, whole.usage
shares = sum(share["weight"] for share in whole.tributary["shares"]) + whole.tributary["commons"]
assert shares == 1_000_000, whole.tributary


def streamed(_):
    stream = client.chat.completions.create(
        model="demo",
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
    for answer in pool.map(streamed, range(8)):
        assert answer == expected, (answer, expected)

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
refused(openai.BadRequestError, prompt="")
refused(openai.BadRequestError, extra_body={"price_max": "1"})
try:
    openai.OpenAI(base_url=base_url, api_key="wrong", max_retries=0).models.list()
    raise AssertionError("a wrong key was taken")
except openai.AuthenticationError:
    pass
print("the Python client works:", whole.choices[0].text.strip())
