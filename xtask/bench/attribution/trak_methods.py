"""traker: TRAK of one model, with its projector for processors.

The output that it explains is the sum over predicted tokens of log(p / (1 - p)), as the TRAK paper (arXiv 2303.14186) has it for
language models; for questions the same.
"""

import logging
import tempfile

import torch
from trak import TRAKer
from trak.modelout_functions import AbstractModelOutput

from exchange import BATCH, folder_bytes, main, timed

# Below the number of records, so that its kernel has an inverse.
PROJECTED = 256


class Answers(AbstractModelOutput):
    def __init__(self, run):
        self.run = run

    def probabilities(self, model, weights, buffers, tokens, scored):
        def call(**given):
            return torch.func.functional_call(model, (weights, buffers), (), given)

        losses, mask = self.run.token_losses(call, tokens, scored)
        return losses, mask

    def get_output(self, model, weights, buffers, tokens, scored):
        losses, mask = self.probabilities(model, weights, buffers, tokens[None], scored[None])
        # log(p / (1 - p)) of p = exp(-loss); a certain token has no gradient that could be told from rounding.
        margins = -losses - torch.log(-torch.expm1(-losses.clamp_min(1e-6)))
        return (margins * mask).sum()

    def get_out_to_loss_grad(self, model, weights, buffers, batch):
        with torch.no_grad():
            losses, mask = self.probabilities(model, weights, buffers, *batch)
        wrong = -torch.expm1(-losses)
        return ((wrong * mask).sum(-1) / mask.sum(-1)).reshape(-1, 1)


def batches(data):
    tokens, scored, _ = data
    return zip(tokens.split(BATCH), scored.split(BATCH))


def trak(run):
    model = run.model()
    state = model.state_dict()
    adapter = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    with tempfile.TemporaryDirectory() as folder:
        tracer = TRAKer(
            model=model,
            task=Answers(run),
            train_set_size=len(run.records[0]),
            save_dir=folder,
            device="cpu",
            proj_dim=PROJECTED,
            use_half_precision=False,
            grad_wrt=adapter,
            logging_level=logging.WARNING,
        )

        def build():
            tracer.load_checkpoint(state, model_id=0)
            for batch in batches(run.records):
                tracer.featurize(batch=batch, num_samples=len(batch[0]))
            tracer.finalize_features(del_grads=True)

        def query():
            tracer.start_scoring_checkpoint("questions", state, model_id=0, num_targets=len(run.questions[0]))
            for batch in batches(run.questions):
                tracer.score(batch=batch, num_samples=len(batch[0]))
            return torch.tensor(tracer.finalize_scores("questions"))

        built, _ = timed(build)
        kept = folder_bytes(folder)
        asked, scores = timed(query)
    return scores, built, asked, kept


main("traker", [(f"TRAK, k={PROJECTED}", trak)])
