"""What deploy.toml can say, as frozen types. Defaults live here and nowhere else; `pipeline/config.py` reads the file into these.

Units stand in key names. No secret has a key: SSH keys come from files, from the agent, or from ~/.ssh/config.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

from edgec.pipeline.core.records import Precision, Preprocess, Scalar, StoppingRule


class TransportKind(StrEnum):
    """How a target is reached."""

    LOCAL = "local"
    SSH = "ssh"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """[model] The trained network: "package.module:callable" with arguments, weights, and its input without the batch dimension."""

    builder: str
    """Or `name` in its place: one of edgec's own networks ("resnet20", "shufflenet_v2", …; models/names.py)."""
    weights: Path
    arguments: Mapping[str, Scalar] = field(default_factory=dict)
    input_shape: tuple[int, ...] = (1, 32, 32)
    input_name: str = "input"
    classes: int = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """[data] A data set of ours ("fashion-mnist-small", "fashion-mnist", "cifar-10"), or "package.module:callable" giving a Dataset."""

    name: str
    root: Path | None = None
    """Where the full set's files are, if not in the usual places."""
    preprocess: Preprocess | None = None
    """Only for a user's own data set, and needed there; ours know theirs."""
    classes: int | None = None
    """The same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """[train] The training loop that pruning, quantisation-aware training and distillation share."""

    batch: int = 128
    lr: float = 0.01
    """Peak of a warm-up + cosine schedule (SGD, Nesterov momentum 0.9). After a re-fit a higher rate loses what it gained (VGG-8 cut to
    0.31 of its MACs in one round, 4 epochs: 1.8 points lost at 0.005 and at 0.01, 3.3 at 0.02); without, 0.02 was better."""
    weight_decay: float = 5e-4
    epochs: float = 2.0
    """Epochs of recovery after each accepted cut."""
    final_epochs: float = 0.0
    """Extra epochs for the chosen network."""
    distill_weight: float = 1.0
    """Weight of the KL term to the dense network in recovery (temperature 4); 0 switches it off."""
    label_weight: float = 1.0
    """Weight of cross-entropy with labels; 0 trains without labels."""
    augment: bool = True
    """Horizontal flip and a random shift of up to 2 pixels."""
    threads: int = 2
    """Threads of the training process."""
    device: str = "auto"
    """auto, cpu or cuda."""
    precision: str = "auto"
    """auto, fp32 or bf16 (autocast). Fake quantisation always trains in fp32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSettings:
    """[prune] AAP (docs: the method's page). `enabled = false` leaves the widths alone."""

    enabled: bool = True
    policy: str = "cost"
    """cost: steps in ln(cost kept) · paper: the released behaviour of AAP, for comparison. The latter has its own score (plain attention),
    its own rule and no re-fit: of the settings below it reads lambda0, max_rounds, floor, samples, protect and stream."""
    lambda0: float = 1.0
    """First step of the paper's threshold."""
    criterion: str = "attg2"
    """attg2: gradient-weighted attention (needs labels) · att: plain attention · l2 · random (a control)."""
    step: float = 0.7
    """Fraction of the cost that one round keeps; halved in ln after a failure."""
    min_step: float = 0.02
    """The search ends when the step in ln(cost kept) is smaller."""
    max_rounds: int = 12
    margin: float = 1.0
    """Standard errors of the loss that must fit within the bound on accuracy too; 0 takes the validation images at their word."""
    substeps: int = 24
    """Parts of a round's cut between which the layer weights are computed again."""
    unit: str = ""
    """What a channel's price is counted in: parameters, macs, or, through a cost table measured on the target, seconds or joules.
    Empty: macs where latency, energy or only macs are asked for, else parameters."""
    floor: float = 0.05
    """Smallest fraction of a group's channels that stays (at least 4 channels)."""
    floors: Mapping[str, int] = field(default_factory=dict)
    """Smallest widths of single groups by name, where `floor` is too low for them."""
    round_to: int | None = None
    """Widths are multiples of this where the floor allows. By default what the backend's kernels ask for, 4 where there is none."""
    rewind: str = "lr"
    """Where recovery begins. lr: the weights go on, the rate's schedule starts again · weights+lr: the surviving weights also go back to
    `rewind_weights` · finetune: the weights go on, half the epochs at a tenth of the rate, constant."""
    rewind_weights: Path | None = None
    """Weights of the dense network at an early epoch (safetensors), for `weights+lr`."""
    samples: int = 512
    """Calibration images that scores are measured on."""
    refit: bool = True
    """Re-fit by least squares, right after a cut and before recovery, the layers that lost inputs (VGG-8 cut to 0.42 of its MACs: from
    78 points lost to 1.6 with no training at all; see compress/refit.py)."""
    protect: tuple[str, ...] = ()
    """Names of layers whose widths stay."""
    stream: bool = False
    """Cut residual streams too, the channels that several layers add to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantiseSettings:
    """[quantise] 8 bit: static ranges first; label-free training (SQAKD) only where those miss the tolerance."""

    enabled: bool = True
    precision: Precision | Literal["auto"] = Precision.INT8
    """auto: int8 where the dense network is measured faster in it than in fp32, on the target, before anything is trained; else fp32."""
    tolerance_points: float = 0.5
    """Accuracy drop on validation, in percentage points, up to which the static ranges are taken."""
    samples: int = 512
    """Calibration images that ranges are searched on."""
    epochs: float = 2.0
    """Of SQAKD, where it is needed."""
    lr: float = 1e-4

    @property
    def settled(self) -> Precision:
        """Of the deployed network; int8 where that is still to be settled by measuring."""
        asked = self.precision if self.enabled else Precision.FP32
        return Precision.INT8 if asked == "auto" else asked


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveSettings:
    """[objective] What pruning must meet, e.g. ["accuracy_drop <= 1.0", "latency_p50 <= 0.6 x dense"]. See objective.py for the grammar."""

    subject_to: tuple[str, ...] = ("accuracy_drop <= 1.0",)
    minimise: str = ""
    """accuracy_drop, params, macs, size, latency_p50 or energy, within those bounds. Empty: the accuracy drop where anything else is
    bounded, else params."""
    on: str = ""
    """Target on which latency is measured during the search; empty: the one deployed to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureSettings:
    """[measure] The protocol of every measurement."""

    rule: StoppingRule = field(default_factory=StoppingRule)
    probe: StoppingRule = field(
        default_factory=lambda: StoppingRule(min_time_s=0.4, min_count=60, rel_width=0.04, max_time_s=3.0, warmup_s=0.2)
    )
    """The shorter protocol for candidates inside the search."""
    batch: int = 1
    threads: int = 1
    idle_s: float = 1.0
    """Rest before and after a run on a target with a meter: energy net of idle needs it."""
    meter: str = "auto"
    """auto: the first usable one on the target · none · a meter's name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateSettings:
    """[gate] Rules against the baseline. A rule that is None is not asked. Decided on intervals at `confidence`."""

    accuracy_drop_points: float | None = 2.0
    """Largest allowed loss of top-1 in percentage points, on the device, test split, paired by image."""
    latency_ratio: float | None = None
    """Largest allowed p50 over the baseline's p50, measured in the same run."""
    size_ratio: float | None = 1.0
    """Largest allowed file size over the baseline's."""
    energy_ratio: float | None = None
    confidence: float = 0.95
    provenance: tuple[str, ...] = ("measured",)
    """Provenances that may pass."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetSettings:
    """[[target]] A machine. For SSH, what is not given here comes from ~/.ssh/config."""

    name: str
    transport: TransportKind = TransportKind.SSH
    host: str = ""
    port: int | None = None
    user: str | None = None
    identity_file: Path | None = None
    known_hosts: Path | None = None
    ssh_config: Path | None = None
    python: str = "python3"
    """The interpreter on the target that has the runtimes; "auto" on localhost means the one that runs edgec."""
    folder: str = "~/.edgec"
    """The only folder on the target that edgec writes to."""
    backend: str = "onnxruntime"
    board: str = ""
    """The board that has to answer, by its name in targets/boards ("jetson-nano"); empty: any."""
    tags: tuple[str, ...] = ()
    connect_timeout_s: float = 10.0
    request_timeout_s: float = 60.0
    health: tuple[str, ...] = ()
    """A command of the target, in words, run in the active release's folder right after each activation: status 0 means healthy, anything
    else puts the old release back."""
    health_timeout_s: float = 30.0
    memory_limit_bytes: int | None = None
    """What the process of a network may allocate there; None leaves it to the kernel."""
    require_signature: bool = False
    """Activate only releases signed by a key that the target trusts (`edgec keys`). A target that has trusted keys demands it anyway."""
    provenance: str = "measured"
    """emulated for a QEMU board; the agent says so too where it can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The whole of deploy.toml. `origins` says where each value came from (file:line, EDGEC_… variable, flag or default)."""

    path: Path
    app: str = "model"
    """Name of the application on the device; its releases stand beside each other under this name."""
    seed: int = 0
    keep: int = 3
    """Releases kept on a target, the active one always among them."""
    signing_key: Path | None = None
    """Signs releases: a file of `edgec keys generate`."""
    model: ModelSettings
    data: DataSettings
    train: TrainSettings = field(default_factory=TrainSettings)
    prune: PruneSettings = field(default_factory=PruneSettings)
    quantise: QuantiseSettings = field(default_factory=QuantiseSettings)
    objective: ObjectiveSettings = field(default_factory=ObjectiveSettings)
    measure: MeasureSettings = field(default_factory=MeasureSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    targets: tuple[TargetSettings, ...] = ()
    origins: Mapping[str, str] = field(default_factory=dict)
