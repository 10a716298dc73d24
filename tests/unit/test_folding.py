import pytest
import torch
import torch.nn.functional as F
from nets import NETS, gratings, trained
from torch import Tensor, nn

from edgec.pipeline.compress.folding import fold
from edgec.pipeline.core.errors import ModelError


@pytest.mark.parametrize("name", NETS)
def test_folded_network_computes_the_same(name: str) -> None:
    net, (x, _) = trained(name), gratings(32, seed=5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    with torch.no_grad():
        torch.testing.assert_close(fold(net)(x), net(x), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize("name", NETS)
def test_folding_leaves_no_batchnorm_and_keeps_weight_names(name: str) -> None:
    net = NETS[name]()
    folded = fold(net)
    assert not [m for m in folded.modules() if isinstance(m, nn.BatchNorm2d)]
    layers = {f"{n}.weight" for n, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert layers == {n for n, _ in folded.named_parameters() if n.endswith("weight")}


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = self.conv(x)
        b = F.relu(a, True)
        b += 1.0
        return b.mul_(2.0).mean([-1, -2], keepdim=True)


def test_nothing_in_place_remains() -> None:
    net, x = InPlace(), torch.randn(2, 1, 6, 6)
    folded = fold(net)
    targets = [getattr(node.target, "__name__", str(node.target)) for node in folded.graph.nodes]
    assert not [target for target in targets if target.endswith("_") or target == "iadd"]
    with torch.no_grad():
        torch.testing.assert_close(folded(x), net(x))


def test_a_layer_used_twice_keeps_its_batchnorm() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.norm(self.conv(x)))

    net, x = Twice().eval(), torch.randn(2, 2, 4, 4)
    net.norm.running_mean.fill_(3.0)  # type: ignore[union-attr]
    with torch.no_grad():
        torch.testing.assert_close(fold(net)(x), net(x))


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


def test_untraceable_network_names_module_and_line() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Sequential(Branching()))
    with pytest.raises(ModelError, match=r"1\.0 \(test_folding.py:\d+\)") as caught:
        fold(net)
    assert caught.value.context["module"] == "1.0"
    assert caught.value.hint
