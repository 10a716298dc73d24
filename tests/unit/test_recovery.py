"""The plan of a round's training by rewind mode."""

from dataclasses import replace

from edgec.pipeline.compress.recovery import plan_from, words
from edgec.pipeline.compress.train import Schedule, schedule
from edgec.pipeline.core.settings import TrainSettings

SETTINGS = TrainSettings(epochs=4.0, lr=0.02, distill_weight=1.0, label_weight=0.5)


def test_rewinding_starts_the_whole_schedule_again() -> None:
    for mode in ("lr", "weights+lr"):
        plan = plan_from(SETTINGS, mode, seed=3, depends_on=("recipe",))
        assert (plan.epochs, plan.lr, plan.schedule, plan.seed, plan.depends_on) == (4.0, 0.02, Schedule.COSINE, 3, ("recipe",))


def test_finetuning_is_short_and_at_a_small_constant_rate() -> None:
    plan = plan_from(SETTINGS, "finetune", seed=0)
    assert (plan.epochs, plan.schedule) == (2.0, Schedule.CONSTANT)
    assert abs(plan.lr - 0.002) < 1e-12
    assert [schedule(step, 100, Schedule.CONSTANT) for step in (4, 5, 50, 99)] == [1.0, 1.0, 1.0, 1.0]
    assert schedule(0, 100, Schedule.CONSTANT) == schedule(0, 100) == 0.2


def test_words_name_loss_rate_and_length() -> None:
    plan = plan_from(SETTINGS, "lr", seed=0)
    assert words(SETTINGS, plan) == "0.5 cross-entropy + 1 KL to the dense network (T 4); 4 epochs at 0.02, cosine"
    assert words(replace(SETTINGS, distill_weight=0.0), plan).startswith("0.5 cross-entropy; 4 epochs")
