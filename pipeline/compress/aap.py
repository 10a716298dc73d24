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

from edgec.pipeline.compress import goal, paper, policy
from edgec.pipeline.compress.channel_cost import CostUnit
from edgec.pipeline.compress.channels import Groups
from edgec.pipeline.compress.cost_table import CostTable
from edgec.pipeline.compress.cutting import Cutter
from edgec.pipeline.compress.inputs import require_usable
from edgec.pipeline.compress.policy import Phase, Propose, Trial
from edgec.pipeline.compress.rounds import RoundStore
from edgec.pipeline.compress.trial import Evaluate, Recover, Trials
from edgec.pipeline.core.errors import CompressionError
from edgec.pipeline.core.protocols import Probe
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
        unit: what a channel's price is counted in and one step is a share of; with a table, of what falls faster, seconds (or joules) or
            what the objective asks for by `goal.unit_of`. By default `settings.unit`, else the table's, else `goal.unit_of`.
        table: of measured costs, for the units seconds and joules (`cost_table.measure_table`).
        rewind_to: the dense network's state dict of an early epoch, for `settings.rewind` "weights+lr".

    Raises:
        CompressionError: nothing can be pruned, the objective asks nothing, contradicts itself or asks the impossible, settings are outside
            the limits of deploy.toml, network, calibration images and labels do not fit (`inputs.py`), unit and table do not fit.
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
        unit: CostUnit | str | None = None,
        table: CostTable | None = None,
        rewind_to: Mapping[str, Tensor] | None = None,
        seed: int = 0,
    ) -> None:
        self._constraints, self._settings = constraints, settings or PruneSettings()
        require_usable(model, example_input, calibration, self._settings)
        is_paper = self._settings.policy == "paper"
        goal.require_sense(constraints, paper=is_paper)
        if (self._settings.rewind == "weights+lr") != (rewind_to is not None):
            raise CompressionError(
                'rewind = "weights+lr" and the weights of an early epoch (rewind_to) go together; only one of them is given',
                hint="pass rewind_to=, the dense network's state dict of that epoch" if rewind_to is None else 'set rewind = "weights+lr"',
            )
        unit = _unit(unit or self._settings.unit or (table.unit if table else goal.unit_of(constraints)))
        if unit.measured != (table is not None) or (table is not None and table.unit is not unit):
            raise CompressionError(
                f"the unit is {unit}, and there is {'no cost table' if table is None else f'a cost table in {table.unit}'}",
                hint="measure one: edgec.pipeline.compress.cost_table.measure_table",
            )
        if is_paper and unit.measured:
            raise CompressionError("the paper's policy counts parameters or MACs", hint=f'not {unit}; or set [prune] policy = "cost"')
        self._cutter = Cutter(
            model,
            example_input,
            calibration=calibration,
            settings=self._settings,
            unit=goal.unit_of(constraints) if unit.measured else unit,
            table=table,
            early=rewind_to,
            seed=seed,
        )

    @property
    def groups(self) -> Groups:
        """The dense network's channel groups, those that are protected with the reason."""
        return self._cutter.dense.groups

    def run(
        self,
        *,
        recover: Recover,
        evaluate: Evaluate | None,
        probe: Probe | None = None,
        on_round: Callable[[Round], None] | None = None,
        store: RoundStore | None = None,
        recipe: str = "",
        recovery: str = "",
    ) -> PruneResult:
        """Search until the policy stops.

        `recover` runs under a random state (PyTorch's default generator) that depends on the round alone, so that a resumed search
        gives what an uninterrupted one gives.

        Args:
            evaluate: may be None where accuracy is not bounded, for instance without labels.
            probe: measures a network right after surgery; needed where latency, energy or size are bounded or minimised.
            on_round: called after each probe and each trained round, also for those found in `store`.
            store: where finished steps are kept, and found again by a run that resumes.
            recipe: names everything outside of this class that the results depend on: the training settings, the validation images,
                the target of the probe. Kept steps of another recipe are not used.
            recovery: what `recover` does, in words, for the rounds' records. With the rewind mode "finetune" it is `recover` that takes a
                short way at a small rate; here the mode is only recorded.

        Raises:
            MeasurementError: the probe does not know what is asked for, such as energy without a meter; said before any training.
            CompressionError: such an objective without a probe, an accuracy bound without `evaluate`, an answer of `evaluate` that is not
                one value per image, scores that are not finite. Whatever `recover` (but its TrainingDiverged), `evaluate` or `probe` raise.
        """
        if probe is None and (measured := goal.measured(self._constraints)):
            raise CompressionError(
                f"an objective on {' and '.join(measured)} needs a probe that measures candidates",
                hint="pass probe=; without one, latency and energy are reachable as macs only, and size as params",
            )
        if evaluate is None and self._constraints.accuracy_drop is not None:
            raise CompressionError(
                "the objective bounds the accuracy drop, and there is no evaluate to tell it by",
                hint="pass evaluate=, which needs labelled validation images, or bound only params, macs, size, latency_p50 or energy",
            )
        trials = Trials(
            self._cutter,
            self._constraints,
            recover=recover,
            evaluate=evaluate,
            probe=probe,
            store=store,
            recipe=recipe,
            recovery=recovery,
        )
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


def _unit(name: str) -> CostUnit:
    try:
        return CostUnit(name)
    except ValueError as error:
        raise CompressionError(f"there is no unit {name!r}", hint=f"known: {', '.join(CostUnit)}") from error
