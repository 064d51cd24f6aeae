"""A run that `tributary eval attribution --export` wrote, on torch, transformers and peft; and scores written back for `--scores`.

Each script runs the methods of one package in one process. Nothing is scored before every record's and question's loss is ours.
"""

import importlib.metadata
import json
import os
import sys
import time
import traceback

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

# By how much a loss may differ from ours, in nats a token: both round in single precision.
TOLERANCE = 1e-4
BATCH = 64


class Run:
    """The deployed adapter on its base, and tokens with masks of what is predicted: rows (sequences, longest)."""

    def __init__(self, folder):
        self.folder = folder
        with open(f"{folder}/run.json") as file:
            self.told = json.load(file)
        if self.told["format"] != "tributary-attribution-run-1":
            raise ValueError(f"run.json is of format {self.told['format']}")
        self.contributors = self.told["contributors"]
        longest = max(len(one["tokens"]) for one in self.told["records"] + self.told["questions"])
        self.records = self.tensors("records", longest)
        self.questions = self.tensors("questions", longest)
        # Given as it is added to scores, so that a model under vmap need not look at padding: what is padded comes last, and
        # nothing before it sees it.
        self.causal = torch.full((longest, longest), torch.finfo(torch.float32).min).triu(1)[None, None]
        self.check()

    def tensors(self, which, longest):
        tokens = torch.zeros(len(self.told[which]), longest, dtype=torch.long)
        scored = torch.zeros(len(self.told[which]), longest)
        real = torch.zeros(len(self.told[which]), longest)
        for row, one in enumerate(self.told[which]):
            tokens[row, : len(one["tokens"])] = torch.tensor(one["tokens"])
            real[row, : len(one["tokens"])] = 1
            for start, end in one["scored"]:
                scored[row, start:end] = 1
        return tokens, scored, real

    def model(self):
        """A new one: methods change what they are given. Only the adapter asks for gradients."""
        base = AutoModelForCausalLM.from_pretrained(
            f"{self.folder}/base", dtype=torch.float32, attn_implementation="eager"
        )
        model = PeftModel.from_pretrained(base, f"{self.folder}/adapter", is_trainable=True).eval()
        return model

    def checkpoints(self, model):
        """The state of a model at each point of the run, with the learning rate there."""
        for one in self.told["checkpoints"]:
            state = dict(model.state_dict())
            for name, value in load_file(f"{self.folder}/{one['folder']}/adapter_model.safetensors").items():
                name = name.replace(".weight", ".default.weight")
                if name not in state:
                    raise KeyError(f"the model has no {name}")
                state[name] = value
            yield state, one["lr"]

    def logits(self, call, tokens):
        """What predicts each token but the first; `call` is the model or a functional form of it."""
        return call(input_ids=tokens, attention_mask=self.causal, use_cache=False).logits[:, :-1]

    def token_losses(self, call, tokens, scored):
        """Losses of all tokens but the first, 0 where nothing is predicted, and the mask of those that are."""
        logits = self.logits(call, tokens)
        losses = -logits.log_softmax(-1).gather(-1, tokens[:, 1:, None])[..., 0]
        return losses * scored[:, 1:], scored[:, 1:]

    def check(self):
        model = self.model()
        for which, (tokens, scored, _) in (("records", self.records), ("questions", self.questions)):
            means = []
            for at in range(0, len(tokens), BATCH):
                with torch.no_grad():
                    losses, mask = self.token_losses(model, tokens[at : at + BATCH], scored[at : at + BATCH])
                means.append(losses.sum(-1) / mask.sum(-1))
            ours = torch.tensor([one["loss"] for one in self.told[which]])
            worst = (torch.cat(means) - ours).abs().max().item()
            print(f"{which}: losses differ by {worst:.1e} nats a token at most", file=sys.stderr)
            if not worst <= TOLERANCE:
                raise ValueError(f"losses of {which} differ by {worst:.1e} nats a token")


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def folder_bytes(folder):
    return sum(os.path.getsize(f"{at}/{name}") for at, _, names in os.walk(folder) for name in names)


def main(package, methods):
    """Runs (name, method) and writes a file for each. A method gives scores of (records, questions), where more is more credit,
    seconds of building and of all questions, and the bytes that it keeps in between."""
    folder, out = sys.argv[1:]
    who = f"{package} {importlib.metadata.version(package)}"
    with open(f"{folder}/run.json") as file:
        told = {"format": "tributary-attribution-scores-1", "run": json.load(file)["identity"]}
    os.makedirs(out, exist_ok=True)
    run, files = None, []
    for name, method in methods:
        metadata, tensors = {**told, "method": f"{who} {name}"}, {}
        try:
            run = run or Run(folder)
            torch.manual_seed(0)
            start = time.perf_counter()
            scores, build, query, kept = method(run)
            shape = (len(run.records[0]), len(run.questions[0]))
            if scores.shape != shape or not torch.isfinite(scores).all():
                raise ValueError(f"scores of {tuple(scores.shape)}, expected {shape}, all finite")
            tensors["scores"] = scores.detach().to(torch.float32).contiguous()
            costs = {"build_seconds": build, "query_seconds": query, "bytes_per_contributor": kept / run.contributors}
            metadata |= {key: str(float(value)) for key, value in costs.items()}
            print(f"{who} {name}: {time.perf_counter() - start:.1f} s", file=sys.stderr)
        except Exception as error:  # the row says why there are no scores
            traceback.print_exc()
            metadata["error"] = f"{type(error).__name__}: {error}"
        files.append(f"{out}/{package}-{len(files)}.safetensors")
        save_file(tensors, files[-1], metadata=metadata)
    print(json.dumps(files))
