"""dattri: products of gradients, DataInf, TRAK and EK-FAC on the adapter's own weights.

A record's loss is summed over its tokens, as the trainer's objective has it; a question's is the mean over its answer.
"""

import torch
from dattri.algorithm.influence_function import IFAttributorDataInf, IFAttributorEKFAC
from dattri.algorithm.tracin import TracInAttributor
from dattri.algorithm.trak import TRAKAttributor
from dattri.task import AttributionTask
from torch.utils.data import DataLoader, TensorDataset

from exchange import main, timed

# Below the number of records, so that TRAK's kernel has an inverse.
PROJECTED = 256


def loader(data):
    # One batch: with several, dattri computes all questions' gradients again for each.
    tokens, scored, _ = data
    return DataLoader(TensorDataset(tokens, scored), batch_size=len(tokens))


class Setup:
    def __init__(self, run):
        self.run, self.model = run, run.model()
        self.records, self.questions = loader(run.records), loader(run.questions)

    def losses(self, params, data):
        tokens, scored = (one if one.dim() > 1 else one[None] for one in data)

        def call(**given):
            return torch.func.functional_call(self.model, params, (), given)

        losses, mask = self.run.token_losses(call, tokens, scored)
        return losses.sum(-1), mask.sum(-1)

    def of_record(self, params, data):
        return self.losses(params, data)[0].mean()

    def of_question(self, params, data):
        losses, counts = self.losses(params, data)
        return (losses / counts).mean()

    def task(self, checkpoints=None):
        return AttributionTask(
            loss_func=self.of_record,
            target_func=self.of_question,
            model=self.model,
            checkpoints=checkpoints or self.model.state_dict(),
        )


def products(task, weights, setup):
    attributor = TracInAttributor(task=task, weight_list=torch.tensor(weights), normalized_grad=False)
    # Without its projection to 512 numbers, which its constructor can't be asked to leave out.
    attributor.projector_kwargs = None
    query, scores = timed(lambda: attributor.attribute(setup.records, setup.questions))
    return scores, 0, query, 0


def grad_dot(run):
    setup = Setup(run)
    return products(setup.task(), [1.0], setup)


def tracin(run):
    setup = Setup(run)
    states, rates = zip(*run.checkpoints(setup.model))
    return products(setup.task(list(states)), list(rates), setup)


def damping(setup):
    """A tenth of the mean eigenvalue of the records' second moments, as DataInf's authors chose it; dattri takes one for all layers."""
    gradients = setup.task().get_grad_loss_func(in_dims=(None, 0))
    params, _ = setup.task().get_param(0)
    (batch,) = setup.records
    return 0.1 * gradients(params, tuple(batch)).square().mean().item()


def datainf(run):
    setup = Setup(run)
    attributor = IFAttributorDataInf(task=setup.task(), regularization=damping(setup))
    build, _ = timed(lambda: attributor.cache(setup.records))
    kept = sum(rows.numel() * rows.element_size() for rows in attributor._cached_train_reps.values())
    with torch.no_grad():
        query, scores = timed(lambda: attributor.attribute(setup.records, setup.questions))
    return scores, build, query, kept


def trak(run):
    setup = Setup(run)

    def probability(params, data):
        return torch.exp(-setup.of_question(params, data))

    attributor = TRAKAttributor(
        task=setup.task(), correct_probability_func=probability, projector_kwargs={"proj_dim": PROJECTED}
    )
    build, _ = timed(lambda: attributor.cache(setup.records))
    kept = sum(one.numel() * one.element_size() for one in [*attributor.inv_XTX_XT_list, attributor.Q])
    query, scores = timed(lambda: attributor.attribute(setup.questions))
    return scores, build, query, kept


def ekfac(run):
    setup = Setup(run)
    modules = [
        name
        for name, module in setup.model.named_modules()
        if "lora_" in name and isinstance(module, torch.nn.Linear)
    ]
    attributor = IFAttributorEKFAC(task=setup.task(), module_name=modules, damping=damping(setup))
    build, _ = timed(lambda: attributor.cache(setup.records))
    with torch.no_grad():
        query, scores = timed(lambda: attributor.attribute(setup.records, setup.questions))
    factors = [one for pair in attributor.cached_q.values() for one in pair] + list(attributor.cached_lambdas.values())
    return scores, build, query, sum(one.numel() * one.element_size() for one in factors)


main(
    "dattri",
    [
        ("GradDot", grad_dot),
        ("TracIn, 6 checkpoints", tracin),
        ("DataInf", datainf),
        (f"TRAK, k={PROJECTED}", trak),
        ("EK-FAC", ekfac),
    ],
)
