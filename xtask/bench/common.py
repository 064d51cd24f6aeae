"""What the peers' scripts share: the model's folder, prompts, and how figures are printed.

Each script measures one engine in one process and prints a list of samples as JSON, as `tributary eval serving --part` does.
"""

import json
import statistics
import sys
import time

# As `tributary_compute::bench::Plan` has it.
TOKENS = 64
REPEATS = 3
CROWD = 8


class Bench:
    def __init__(self, who):
        self.who, self.folder, self.parts = who, sys.argv[1], sys.argv[2:]
        with open(f"{self.folder}/prompts.json") as file:
            self.prompts = json.load(file)
        self.samples = []

    def prompt(self):
        """A prompt that this process has not used."""
        return self.prompts.pop()

    def add(self, measure, value):
        self.samples.append({"measure": measure, "who": self.who, "value": value})

    def miss(self, measure, why):
        self.samples.append({"measure": measure, "who": self.who, "missing": " ".join(str(why).split())[:200]})

    def finish(self):
        print(json.dumps(self.samples))


def timed(work):
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def decode_rate(answer):
    """Tokens per second once the prompt is read; `answer(tokens)` gives the number of tokens made."""
    rates = []
    for _ in range(REPEATS):
        (one, first), (all_, made) = timed(lambda: answer(1)), timed(lambda: answer(TOKENS))
        rates.append((made - first) / (all_ - one))
    return statistics.median(rates)


def crowd_rate(answer):
    """Tokens per second, prompts included."""
    rates = []
    for _ in range(REPEATS):
        seconds, made = timed(answer)
        rates.append(made / seconds)
    return statistics.median(rates)
