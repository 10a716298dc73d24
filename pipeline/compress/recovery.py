"""How a cut network is trained again, by the rewind mode: the plan of the training, and its description for the record.

Where the weights begin is the search's business (`cutting.py`); here are rate, schedule and length. Rewinding weights and rate is the
paper's way (AAP, arXiv 2201.10520, Algorithm 1), rewinding the rate alone what its released code does; both start the whole schedule again.
Fine-tuning is what both are compared with: a short while at a small constant rate (Renda, Frankle, Carbin, "Comparing Rewinding and
Fine-tuning in Neural Network Pruning", ICLR 2020, arXiv 2003.02389).
"""

from edgec.pipeline.compress.train import Plan, Schedule
from edgec.pipeline.core.settings import TrainSettings

FINETUNE_RATE = 0.1
"""Of the rate: fine-tuning goes on where a schedule would have been near its end."""
FINETUNE_EPOCHS = 0.5
"""Of the epochs."""


def plan_from(settings: TrainSettings, rewind: str, *, seed: int, depends_on: tuple[str, ...] = ()) -> Plan:
    """The training of one round. The rate's schedule starts again, or, with "finetune", stays constant at a tenth for half as long."""
    if rewind == "finetune":
        return Plan(
            name="recover",
            epochs=FINETUNE_EPOCHS * settings.epochs,
            lr=FINETUNE_RATE * settings.lr,
            schedule=Schedule.CONSTANT,
            seed=seed,
            depends_on=depends_on,
        )
    return Plan(name="recover", epochs=settings.epochs, lr=settings.lr, seed=seed, depends_on=depends_on)


def words(settings: TrainSettings, plan: Plan) -> str:
    """The recovery for a round's record: loss with its weights, rate, schedule and epochs."""
    parts = []
    if settings.label_weight:
        parts.append(f"{settings.label_weight:g} cross-entropy")
    if settings.distill_weight:
        parts.append(f"{settings.distill_weight:g} KL to the dense network (T 4)")
    return f"{' + '.join(parts)}; {plan.epochs:g} epochs at {plan.lr:g}, {plan.schedule}"
