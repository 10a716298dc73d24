import pytest
import torch
import torch.nn.functional as F
from pruning_zoo import Auxiliary, Bottleneck, Chain, Concat, Condition, FusedHeads, Inverted, Recurrent, ResNet
from torch import Tensor, nn

from edgec.pipeline.compress.channels import Selection, Side
from edgec.pipeline.compress.groups import OUTPUT, STREAM, find_groups
from edgec.pipeline.compress.idle import SKIPPED
from edgec.pipeline.compress.surgery import cut
from edgec.pipeline.core.errors import CompressionError, ModelError

X = torch.zeros(1, 1, 8, 8)


def free(network: nn.Module, **options) -> list[str]:
    return [g.name for g in find_groups(network, X, **options).prunable]


def test_every_group_of_a_chain_is_free_but_the_output():
    groups = find_groups(Chain(), X)
    assert [g.name for g in groups.prunable] == ["features.0", "features.4", "hidden"]
    assert groups.protected == {"classifier": OUTPUT}


def test_only_the_inside_of_a_basic_block_is_free():
    groups = find_groups(ResNet(n=2), X)
    assert [g.name for g in groups.prunable] == [f"blocks.{i}.conv1" for i in range(6)]
    assert groups.protected == {"stem.0.0": STREAM, "blocks.2.conv2": STREAM, "blocks.4.conv2": STREAM, "fc": OUTPUT}


def test_streams_are_free_when_asked_for():
    names = free(ResNet(n=2), stream=True)
    assert {"stem.0.0", "blocks.2.conv2", "blocks.4.conv2"} <= set(names)


def test_bottleneck_has_two_inner_groups():
    assert free(Bottleneck()) == ["reduce.0", "middle.0"]


def test_expansion_and_depthwise_are_one_group_named_after_the_expansion():
    groups = {g.name: g for g in find_groups(Inverted(), X).prunable}
    assert groups["second.0.0"].writers == ("second.0.0", "second.2.0")
    assert [g for g in groups if g.startswith(("first", "second"))] == ["first.0.0", "second.0.0"]


def test_flatten_gives_every_channel_its_columns():
    group = next(g for g in find_groups(Chain(), X) if g.name == "features.4")
    member = next(m for m in group.members if m.layer == "hidden")
    assert (member.side, member.positions[3]) == (Side.IN, (12, 13, 14, 15))


def test_branches_of_a_concatenation_are_groups_of_their_own():
    groups = {g.name: g for g in find_groups(Concat(), X)}
    read = next(m for m in groups["right"].members if m.layer == "both")
    assert read.positions == tuple((6 + c,) for c in range(8))
    assert groups["left"].prunable
    assert groups["both"].feeds_output


def test_protect_names_the_layer_or_the_nearest():
    assert free(Chain(), protect=["features.4"]) == ["features.0", "hidden"]
    with pytest.raises(CompressionError) as caught:
        find_groups(Chain(), X, protect=["feature.4"])
    assert "'features.4'" in caught.value.hint


def test_protecting_a_depthwise_convolution_protects_its_expansion():
    assert "second.0.0" not in free(Inverted(), protect=["second.2.0"])


class Gated(nn.Module):
    """What follows the first convolution does not keep a silent channel silent."""

    def __init__(self, gate) -> None:
        super().__init__()
        self.a, self.b, self.fc, self.gate = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Linear(8, 3), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(self.gate(self.a(x)))).mean(dim=(2, 3)))


def test_group_whose_silence_does_not_arrive_is_protected():
    groups = find_groups(Gated(torch.sigmoid), X)
    assert [g.name for g in groups.prunable] == ["b"]
    assert groups.protected["a"].startswith("a channel that is 0 still reaches b, as 0.5")


def test_channel_shuffle_is_never_cut_wrongly():
    def shuffle(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)

    assert [g.name for g in find_groups(Gated(shuffle), X).prunable] == ["b"]


def test_channels_that_meet_the_input_are_protected():
    class Meets(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.fc = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(F.relu(self.a(x) + x.expand(-1, 8, -1, -1).contiguous()).mean(dim=(2, 3)))

    groups = find_groups(Meets(), X)
    assert groups.prunable == ()
    assert groups.protected["a"].startswith("without half of its channels")


def test_grouped_convolution_loses_one_channel_of_each_of_its_groups():
    groups = {g.name: g for g in find_groups(Gated(nn.Conv2d(8, 8, 1, groups=2)), X)}
    inside, behind = groups["a"], groups["gate"]
    assert (inside.channels, behind.channels) == (4, 4)
    assert {m.layer: (m.side, m.positions[1]) for m in inside.members} == {"a": (Side.OUT, (1, 5)), "gate": (Side.FED, (1, 5))}
    assert {m.layer: (m.side, m.positions[3]) for m in behind.members} == {"gate": (Side.OUT, (3, 7)), "b": (Side.IN, (3, 7))}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Conv2d(8, 8, 1, groups=8), ""),
        (
            nn.Sequential(nn.Conv2d(8, 16, 1, groups=8), nn.Conv2d(16, 8, 1)),
            "grouped convolution (8 groups) with one of these channels in each",
        ),
        (nn.ConvTranspose2d(8, 8, 2, groups=2), "grouped transposed convolution (2 groups)"),
        (nn.ConvTranspose2d(8, 8, 2, 2), ""),
        (nn.PReLU(8), ""),
        (nn.PReLU(), ""),
        (nn.GroupNorm(2, 8), "normalises over channels"),
        (nn.InstanceNorm2d(8), "InstanceNorm2d cannot be cut"),
        (nn.Softmax2d(), "not the same as silencing"),
        (nn.utils.parametrizations.weight_norm(nn.Conv2d(8, 8, 1)), "its weight is computed from other parameters"),
    ],
)
def test_what_follows_a_layer_decides_whether_it_is_cut(layer: nn.Module, reason: str):
    groups = {g.name: g for g in find_groups(Gated(layer), X)}
    assert groups["a"].prunable == (not reason)
    assert reason in groups["a"].reason


def halves(x: Tensor) -> Tensor:
    """Splits of splits, one of them uneven, one with a piece that nothing reads, one whose piece is read twice."""
    left, right = x.chunk(2, dim=1)
    (a, b), (c, d) = left.chunk(2, dim=-3), right.split([1, 3], dim=1)
    first, _ = x.chunk(2, dim=1)
    return torch.cat((d, c, b + b.relu(), a), dim=1) + torch.cat((first, first), dim=1)


def test_splits_of_splits_are_traced_and_never_cut_wrongly():
    groups = find_groups(Gated(halves), X)
    assert [g.name for g in groups.prunable] == ["b"]
    assert "without end" in groups.protected["a"]


def test_network_whose_output_is_a_piece_of_a_split_keeps_its_width():
    class Piece(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).chunk(3, dim=1)[0]

    assert find_groups(Piece(), X).protected.keys() == {"classifier"}


def test_both_directions_of_a_recurrent_layer_lose_the_same_unit():
    groups = {g.name: g for g in find_groups(Recurrent(nn.LSTM, both=True), X)}
    assert groups["steps"].channels == 12
    assert {m.layer: m.positions[2] for m in groups["steps"].members} == {"steps": (2, 14), "hidden": (2, 14)}
    assert {m.layer: m.side for m in groups["embed"].members} == {"embed": Side.OUT, "steps": Side.FED}


def test_head_is_its_rows_of_queries_keys_and_values_and_its_columns_of_the_projection():
    groups = {g.name: g for g in find_groups(FusedHeads(width=16, heads=4), X)}
    rows, columns = groups["qkv"].members
    assert (rows.layer, rows.side, rows.positions[1]) == ("qkv", Side.OUT, (4, 5, 6, 7, 20, 21, 22, 23, 36, 37, 38, 39))
    assert (columns.layer, columns.side, columns.positions[1]) == ("out", Side.IN, (4, 5, 6, 7))


def test_fixed_number_of_heads_is_protected():
    class Fixed(FusedHeads):
        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            q, k, v = self.qkv(x).unflatten(2, (3, 4, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            return self.fc((x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(dim=1))

    groups = find_groups(Fixed(width=16, heads=4), X)
    assert groups.prunable == ()
    assert "split into heads" in groups.protected["qkv"]


def test_wrong_group_in_a_branch_with_gammas_of_zero_is_seen():
    class Branch(Gated):
        def __init__(self) -> None:
            super().__init__(torch.sigmoid)
            self.stem, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc((self.stem(x)[:, :, 1:-1, 1:-1] + self.norm(self.b(self.gate(self.a(x))))).mean(dim=(2, 3)))

    assert "a" in find_groups(Branch(), X).protected


class Scaled(Gated):
    """A wrong group, whose channels are compared with their mean, in a branch that a factor in front of a sum hides."""

    def __init__(self, factor) -> None:
        super().__init__(lambda x: x - x.mean(dim=1, keepdim=True))
        self.stem, self.factor = nn.Conv2d(1, 8, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.stem(x)[:, :, 1:-1, 1:-1] + self.factor * self.b(self.gate(self.a(x)))).mean(dim=(2, 3)))


@pytest.mark.parametrize("value", [0.0, 1e-6])
@pytest.mark.parametrize("kind", [nn.Parameter, nn.Buffer])
def test_wrong_group_behind_a_tiny_scale_is_seen(kind, value: float):
    assert "not the same as silencing" in find_groups(Scaled(kind(torch.tensor(value))), X, stream=True).protected["a"]


def test_group_behind_a_tiny_constant_cannot_be_proved():
    assert "cannot be proved" in find_groups(Scaled(1e-6), X).protected["a"]


def test_fixed_number_of_heads_is_seen_behind_a_small_layer_scale():
    class Fixed(FusedHeads):
        def __init__(self) -> None:
            super().__init__(width=16, heads=4)
            self.scale = nn.Parameter(torch.full((16,), 1e-5))

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            heads = (x.shape[0], x.shape[1], 3, 4, -1)
            q, k, v = self.qkv(x).reshape(heads).permute(2, 0, 3, 1, 4).unbind(0)
            return self.fc((x + self.scale * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))).mean(dim=1))

    assert "split into heads" in find_groups(Fixed(), X).protected["qkv"]


def test_random_output_in_eval_mode_is_named_with_its_place():
    with pytest.raises(ModelError, match="another output each time") as caught:
        find_groups(Gated(lambda x: F.dropout(x, 0.5)), X)
    assert caught.value.context == {"layer": "b"}


def test_layer_that_did_not_run_protects_the_widths_that_it_may_touch():
    groups = find_groups(Condition(), X)
    assert [g.name for g in groups.prunable] == ["last"]
    assert groups.protected["stem.0.0"].startswith("dark did not run on the example")
    assert groups.protected["dark"] == SKIPPED


def test_layer_that_did_not_run_protects_no_width_that_a_cut_comes_to():
    """It reads 8 channels; `last` has 10, and 8 after the cut."""
    dense = find_groups(Condition(), X)
    narrow = cut(Condition(), Selection(groups=dense, removed={"last": (0, 1)}))
    assert [g.name for g in find_groups(narrow, X, within=dense).prunable] == ["last"]


def test_random_state_is_the_callers():
    network, before = Auxiliary(), torch.get_rng_state()
    find_groups(network, X)
    assert torch.equal(torch.get_rng_state(), before)


def test_network_is_not_touched_and_may_be_frozen():
    network = ResNet().train().requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert len(find_groups(network, X).prunable) == 3
    assert network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_network_that_cannot_run_names_the_place():
    network = Chain()
    network.features[4] = nn.Conv2d(5, 12, 3)
    with pytest.raises(ModelError, match=r"in features\.4"):
        find_groups(network, X)


def test_network_with_two_outputs_is_refused():
    class Two(Chain):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return super().forward(x), x

    with pytest.raises(ModelError, match="gives a tuple"):
        find_groups(Two(), X)


def test_network_whose_output_has_no_history_cannot_be_traced():
    class Detached(Chain):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).detach()

    with pytest.raises(ModelError, match="cannot be traced") as caught:
        find_groups(Detached(), X)
    assert caught.value.context["place"]


def test_layers_in_front_of_a_detach_are_listed_as_not_traced():
    groups = find_groups(Gated(Tensor.detach), X)
    assert [g.name for g in groups.prunable] == ["b"]
    assert "not traced" in groups.protected["a"]
