"""Networks measured turn by turn: in each round every network runs one block of inferences, in a freshly drawn order, so that drift of
clocks, temperature or other load falls on all of them alike.

A block lasts a stated time, whatever the network's speed: the number of its inferences follows from the times of the block before,
never from its own, so that no block ends because of a slow inference.

The stopping rule per network: minimum inference time and count and MIN_BLOCKS blocks, then until the distribution-free interval of
the median is narrower than asked for ("precise"), or until its turns have taken the budget ("time"). Beside an energy meter a
network also goes on, within the budget, until the meter has seen enough of it.
"""

import contextlib
import math
import random
import threading
import time
from typing import Any, Callable, Dict, List, Tuple

from edgec.targets.agent.child import Child
from edgec.targets.agent.children import Children
from edgec.targets.agent.clock import monotonic_ns
from edgec.targets.agent.conditions import observe
from edgec.targets.agent.folder import checked_digest
from edgec.targets.agent.objects import Objects
from edgec.targets.agent.sampler import Sampler, chosen
from edgec.targets.agent.wire import Failure, Fields

Z95 = 1.959963984540054
"""Normal quantile of a two-sided 95 % interval."""
CHUNK = 50000
"""Times in one message: far below the protocol's limit even at 12 digits each."""
SETTLE, SETTLE_S = 3, 0.05
"""Most inferences, and most seconds of them, at the start of a turn that are not timed: they pay for the caches that the other
networks have filled. A slow network needs its caches no warmer."""
MIN_BLOCKS = 8
"""Fewest blocks of a precise network: an interval over blocks takes as many (`stats.MIN_BLOCKS`)."""
MAX_BLOCK = 500000
"""Most inferences in a block: their times have to fit into one line."""
BLOCK_PERIODS, RUN_PERIODS = 6, 120
"""Shortest block and shortest time of a network beside a meter, in its periods: a fifth more than `profilers/energy.py` asks for,
since a sampler's periods come out longer than asked."""


def median_is_precise(times: List[int], rel_width: float) -> bool:
    """Whether the 95 % interval of the median is narrower than `rel_width` of the median.

    The interval lies between order statistics n/2 -+ z sqrt(n)/2, the normal approximation to the binomial (Conover, Practical
    Nonparametric Statistics, 3rd ed. 1999, section 3.2); it assumes nothing about the distribution but independence.
    """
    ordered, n = sorted(times), len(times)
    low = math.floor(n / 2.0 - Z95 * math.sqrt(n) / 2.0)
    high = math.ceil(n / 2.0 + 1.0 + Z95 * math.sqrt(n) / 2.0)
    if low < 1 or high > n:
        return False
    return ordered[high - 1] - ordered[low - 1] < rel_width * ordered[n // 2]


class Rule:
    """The fields of `records.StoppingRule`."""

    def __init__(self, fields: Fields) -> None:
        self.min_time_s = fields.number("min_time_s", high=86400.0)
        self.min_count = fields.whole("min_count", low=1, high=10**7)
        self.rel_width = fields.number("rel_width")
        self.max_time_s = fields.number("max_time_s", low=0.001, high=86400.0)
        self.warmup_s = fields.number("warmup_s", high=3600.0)
        self.block_s = fields.number("block_s", low=1e-6, high=3600.0)


class Job:
    """The fields of `replies.NetworkJob`, with the paths of its files."""

    def __init__(self, fields: Fields, objects: Objects) -> None:
        self.label = fields.text("label")
        self.runtime = fields.text("runtime")
        self.threads = fields.whole("threads", 1, 1, 1024)
        self.path = objects.path(checked_digest(fields.text("file")))
        self.inputs = objects.path(checked_digest(fields.text("inputs")))

    def open(self, child: Child) -> Dict[str, Any]:
        """Load the network in its process."""
        return child.call("open", {"runtime": self.runtime, "path": self.path, "threads": self.threads})


class Turns:
    """One network's part of the run."""

    def __init__(self, job: Job, child: Child, rule: Rule, period_s: float = 0.0) -> None:
        """Load the network and run it once. `period_s` is the energy meter's, 0 without one."""
        self.label = job.label
        self._child = child
        self._rule = rule
        self._opened = job.open(child)
        self._first_s = child.call("feed", {"inputs": job.inputs})["first_s"]
        self._least_block_s = BLOCK_PERIODS * period_s
        self._least_s = RUN_PERIODS * period_s
        self._each_s = self._first_s
        self._next_check = rule.min_count
        self._turn_s = 0.0
        self._block_total_s = 0.0
        self._inference_s = 0.0
        self.warmup: List[int] = []
        self.blocks: List[List[int]] = []
        self.spans: List[List[int]] = []
        self.times: List[int] = []
        self.is_precise = False

    def warm_up(self) -> None:
        """Run for the asked time; the times are kept apart."""
        if self._rule.warmup_s > 0:
            ask = {"count": MAX_BLOCK, "seconds": self._rule.warmup_s, "settle": 0}
            self.warmup = self._child.call("block", ask, more_s=self._rule.warmup_s)["times"]
            self._each_s = sorted(self.warmup)[len(self.warmup) // 2] / 1e9

    @property
    def is_over(self) -> bool:
        """Whether the budget is used up."""
        return self._turn_s >= self._rule.max_time_s

    @property
    def is_done(self) -> bool:
        """Whether nothing more is asked of it: it is precise and the meter has seen enough of it, or the budget is used up."""
        return self.is_over or (self.is_precise and self._block_total_s >= self._least_s)

    @property
    def share_done(self) -> float:
        """How much of the budget is used, 0 to 1; 1 when done."""
        return 1.0 if self.is_done else self._turn_s / self._rule.max_time_s

    def take(self) -> None:
        """One block."""
        start = time.monotonic()
        left = max(0.0, self._rule.max_time_s - self._turn_s)
        each_s = max(self._each_s, 1e-9)  # a clock may be too coarse for a tiny network
        count = min(MAX_BLOCK, max(1, round(self._rule.block_s / each_s), math.ceil(self._least_block_s / each_s)))
        settle = min(SETTLE, round(SETTLE_S / each_s))
        block = self._child.call("block", {"count": count, "seconds": left, "settle": settle}, more_s=left)
        self._turn_s += time.monotonic() - start
        self.blocks.append(block["times"])
        self.spans.append(block["span"])
        self.times += block["times"]
        took_s = sum(block["times"]) / 1e9
        self._each_s = took_s / len(block["times"])
        self._inference_s += took_s
        self._block_total_s += (block["span"][1] - block["span"][0]) / 1e9
        enough = len(self.times) >= self._next_check and len(self.blocks) >= MIN_BLOCKS
        if enough and self._inference_s >= self._rule.min_time_s:
            self.is_precise = median_is_precise(self.times, self._rule.rel_width)
            self._next_check = len(self.times) + max(1, len(self.times) // 10)  # sorting every round would cost more than measuring

    def summary(self) -> Dict[str, Any]:
        """The fields of `replies.ProfiledNetwork` but for the times."""
        return {
            "label": self.label,
            "load_s": self._opened["load_s"],
            "first_s": self._first_s,
            "stopped_by": "precise" if self.is_precise else "time",
            "runtime_version": self._opened["version"],
            "rss_before_bytes": self._opened["rss_before_bytes"],
            "rss_peak_bytes": self._child.call("memory", {})["rss_peak_bytes"],
        }


def profile(fields: Fields, objects: Objects, children: Children, event: Callable[[Dict[str, Any]], None]) -> Dict[str, Any]:
    """The whole run. The times go out as events {"samples": …} and {"warmup": …}; the answer holds the rest of `replies.ProfileRun`.

    Raises:
        Failure: RunnerDied, ModelError, ToolchainMissing, MeasurementError.
    """
    jobs = [Job(Fields(each), objects) for each in fields.array("jobs") if isinstance(each, dict)]
    if not jobs or len({job.label for job in jobs}) < len(jobs):
        raise Failure("ProtocolViolation", "a profile needs networks, each with its own label")
    rule, idle_s = Rule(Fields(fields.object("rule"))), fields.number("idle_s", 0.0, high=3600.0)
    order = random.Random(fields.whole("seed", 0, high=2**32))
    patience_s, period_s = fields.number("patience_s", 60.0, low=0.1, high=86400.0), fields.number("period_s", 0.05, low=0.001, high=10.0)
    meter, trace_reason = chosen(fields.text("meter", "auto"))
    sampler = Sampler(meter, period_s) if meter is not None else None
    before = observe()
    with contextlib.ExitStack() as stack:
        networks: List[Turns] = []
        for job in jobs:
            event({"phase": "load", "label": job.label})
            child = stack.enter_context(Child(children, patience_s))
            networks.append(Turns(job, child, rule, period_s if sampler is not None else 0.0))
        idle: List[Tuple[int, int]] = []
        if sampler is not None:
            stack.callback(sampler.stop)
            sampler.start()
            idle.append(_rest(idle_s, children.ended))
        for network in networks:
            event({"phase": "warm-up", "label": network.label})
            network.warm_up()
        said = 0.0
        while not all(network.is_done for network in networks):
            turns = [network for network in networks if not network.is_over]
            order.shuffle(turns)
            for network in turns:
                network.take()
                if time.monotonic() - said > 0.25:
                    said = time.monotonic()
                    event({"phase": "measure", "fraction": min(each.share_done for each in networks)})
        trace = None
        if sampler is not None:
            idle.append(_rest(idle_s, children.ended))
            sampler.stop()
            trace, trace_reason = sampler.trace(idle)
        summaries = [network.summary() for network in networks]
    after = observe()
    for index, network in enumerate(networks):
        _send_times(index, network, event)
    return {"networks": summaries, "before": before, "after": after, "trace": trace, "trace_reason": trace_reason}


def _rest(seconds: float, ended: threading.Event) -> Tuple[int, int]:
    start = monotonic_ns()
    ended.wait(seconds)
    return start, monotonic_ns()


def _send_times(index: int, network: Turns, event: Callable[[Dict[str, Any]], None]) -> None:
    for start in range(0, len(network.warmup), CHUNK):
        event({"warmup": {"index": index, "times": network.warmup[start : start + CHUNK]}})
    per_message = max(1, CHUNK // max(len(block) for block in network.blocks))
    for start in range(0, len(network.blocks), per_message):
        part = slice(start, start + per_message)
        event({"samples": {"index": index, "blocks": network.blocks[part], "spans": network.spans[part]}})
