"""kronfluence: EK-FAC on the adapter's products, with labels sampled from the model as its authors advise."""

import tempfile

import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from torch.utils.data import TensorDataset

from exchange import BATCH, folder_bytes, main, timed


class Answers(Task):
    """A record's loss is summed over its tokens, as the trainer's objective has it; a question's is the mean over its answer."""

    def __init__(self, run, modules):
        self.run, self.modules = run, modules

    def get_influence_tracked_modules(self):
        return self.modules

    def get_attention_mask(self, batch):
        return batch[2].long()

    def compute_train_loss(self, batch, model, sample=False):
        tokens, scored, _ = batch
        if not sample:
            return self.run.token_losses(model, tokens, scored)[0].sum()
        logits = self.run.logits(model, tokens)
        with torch.no_grad():
            drawn = torch.multinomial(logits.softmax(-1).flatten(0, 1), 1).view(logits.shape[:-1])
        losses = -logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
        return (losses * scored[:, 1:]).sum()

    def compute_measurement(self, batch, model):
        tokens, scored, _ = batch
        losses, mask = self.run.token_losses(model, tokens, scored)
        return (losses.sum(-1) / mask.sum(-1)).sum()


def ekfac(run):
    model = run.model()
    modules = [
        name for name, module in model.named_modules() if "lora_" in name and isinstance(module, torch.nn.Linear)
    ]
    task = Answers(run, modules)
    records, questions = TensorDataset(*run.records), TensorDataset(*run.questions)
    with tempfile.TemporaryDirectory() as folder:
        model = prepare_model(model, task)
        analyzer = Analyzer("run", model, task, cpu=True, disable_tqdm=True, output_dir=folder)
        build, _ = timed(
            lambda: analyzer.fit_all_factors(
                "factors", records, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy="ekfac")
            )
        )
        kept = folder_bytes(folder)
        query, _ = timed(
            lambda: analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                questions,
                records,
                per_device_query_batch_size=len(questions),
                per_device_train_batch_size=BATCH,
                # Its own rule: a tenth of the mean eigenvalue.
                score_args=ScoreArguments(damping_factor=None),
            )
        )
        scores = analyzer.load_pairwise_scores("scores")["all_modules"].T
    return scores, build, query, kept


main("kronfluence", [("EK-FAC", ekfac)])
