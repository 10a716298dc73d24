"""Automatic attention pruning on channel groups: the search (`policy.py`) carried out on a real network.

In a training loop of one's own::

    import torch
    from edgec.pipeline.compress.aap import AAP
    from edgec.pipeline.core.records import Constraints

    aap = AAP(model, images[:1], calibration=(images, labels), constraints=Constraints(accuracy_drop=0.02))
    result = aap.run(
        recover=lambda network, cut: train(network, epochs=2),
        evaluate=lambda network: network.eval()(held_out).argmax(1) == held_out_labels,
    )
    torch.save(result.module.state_dict(), "pruned.pt")

Method: Zhao et al., "Automatic Attention Pruning", AISTATS 2023 (arXiv 2303.08595, 2201.10520): rounds of attention, layer-aware
threshold, recovery, and a return to the last good round. Departs where measurements spoke against it: the score is weighted with
the loss gradient, the layer's weight is the cost of one channel and follows the cut in small sub-steps, channels are removed
physically in every round and what is left is re-fitted, the search steps in ln(cost kept), and accepts with a margin on held-out data.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from edgec.pipeline.compress import paper, policy
from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.compress.channels import Groups
from edgec.pipeline.compress.cutting import Cutter
from edgec.pipeline.compress.policy import Phase, Propose, Trial
from edgec.pipeline.compress.rounds import RoundStore
from edgec.pipeline.compress.trial import Evaluate, Recover, Trials
from edgec.pipeline.core.errors import CompressionError
from edgec.pipeline.core.protocols import LatencyProbe
from edgec.pipeline.core.records import Constraints, Round
from edgec.pipeline.core.settings import PruneSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneResult:
    """What a search found. When the objective is not met, `module` is the nearest network and `reason` says why."""

    module: nn.Module
    met: bool
    reason: str
    rounds: tuple[Round, ...]
    """Every network that was cut: probes and trained rounds, in order."""
    chosen: int
    """`index` of the chosen round; 0 is the dense network."""
    protected: Mapping[str, str]
    """Groups of the dense network that were not touched, and why."""


class AAP:
    """A pruning search over one network.

    Args:
        model: the dense network; it is not changed.
        example_input: with its batch dimension.
        calibration: training images as the network takes them, and their labels, a teacher's probabilities, or None.
        unit: what is minimised, and what one step is a share of. By default MACs where latency or only MACs are bounded, else parameters.

    Raises:
        CompressionError: nothing can be pruned, the objective asks nothing or the impossible, the criterion is not known or needs labels.
        ModelError: the network cannot run or cannot be traced.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Tensor,
        *,
        calibration: tuple[Tensor, Tensor | None],
        constraints: Constraints,
        settings: PruneSettings | None = None,
        unit: CostUnit | None = None,
        seed: int = 0,
    ) -> None:
        self._constraints = _checked(constraints)
        self._settings = settings or PruneSettings()
        if self._settings.policy not in ("cost", "paper"):
            raise CompressionError(f"there is no policy {self._settings.policy!r}", hint="known: cost, paper")
        if self._settings.policy == "paper" and constraints.latency_ratio is not None:
            raise CompressionError(
                "the paper's policy knows no measured latency", hint='bound macs instead, or set [prune] policy = "cost"'
            )
        by_macs = constraints.latency_ratio is not None or (constraints.macs_ratio is not None and constraints.params_ratio is None)
        unit = unit or (CostUnit.MACS if by_macs else CostUnit.PARAMETERS)
        self._cutter = Cutter(model, example_input, calibration=calibration, settings=self._settings, unit=unit, seed=seed)

    @property
    def groups(self) -> Groups:
        """The dense network's channel groups, those that are protected with the reason."""
        return self._cutter.dense.groups

    def run(
        self,
        *,
        recover: Recover,
        evaluate: Evaluate,
        probe: LatencyProbe | None = None,
        on_round: Callable[[Round], None] | None = None,
        store: RoundStore | None = None,
        recipe: str = "",
    ) -> PruneResult:
        """Search until the policy stops.

        `recover` runs under a random state (PyTorch's default generator) that depends on the round alone, so that a resumed search
        gives what an uninterrupted one gives.

        Args:
            probe: measures a network right after surgery; needed for a latency bound.
            on_round: called after each probe and each trained round, also for those found in `store`.
            store: where finished steps are kept, and found again by a run that resumes.
            recipe: names everything outside of this class that the results depend on: the training settings, the validation images,
                the target of the probe. Kept steps of another recipe are not used.

        Raises:
            CompressionError: a latency bound without a probe, an answer of `evaluate` that is not one value per image, scores that
                are not finite. Whatever `recover` (but its TrainingDiverged), `evaluate` or `probe` raise.
        """
        if self._constraints.latency_ratio is not None and probe is None:
            raise CompressionError("a latency bound needs a probe that measures candidates", hint="pass probe=, or bound MACs instead")
        trials = Trials(self._cutter, self._constraints, recover=recover, evaluate=evaluate, probe=probe, store=store, recipe=recipe)
        history = [Trial(phase=Phase.DENSE, parent=0, asked=1.0, kept=1.0)]
        rounds: list[Round] = []
        next_step = (paper if self._cutter.paper else policy).next_step
        while isinstance(step := next_step(history, self._settings, self._constraints), Propose):
            trial, record = trials.carry_out(step, len(history))
            history.append(trial)
            if record is not None:
                rounds.append(record)
                if on_round is not None:
                    on_round(record)
        return PruneResult(
            module=trials.networks[step.chosen].module,
            met=step.met,
            reason=step.reason,
            rounds=tuple(rounds),
            chosen=step.chosen,
            protected=self.groups.protected,
        )


def _checked(constraints: Constraints) -> Constraints:
    bounds = {"latency_ratio": constraints.latency_ratio, "params_ratio": constraints.params_ratio, "macs_ratio": constraints.macs_ratio}
    if constraints.accuracy_drop is None and all(bound is None for bound in bounds.values()):
        raise CompressionError("the objective asks nothing", hint='for example [objective] subject_to = ["accuracy_drop <= 1.0"]')
    for name, bound in bounds.items():
        if bound is not None and not bound > 0:
            raise CompressionError(f"no network meets {name} <= {bound:g}", hint="ratios are kept over dense and greater than 0")
    if constraints.accuracy_drop is not None and not constraints.accuracy_drop >= 0:
        raise CompressionError(f"accuracy_drop <= {constraints.accuracy_drop:g} asks for a gain", hint="ask for 0 or more")
    return constraints
