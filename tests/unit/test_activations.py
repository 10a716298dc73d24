"""Where the activations of recurrent layers are read. Those of convolutions and linear layers are held by test_scores.py."""

import pytest
import torch
from pruning_zoo import Recurrent, settled
from torch import nn

from edgec.pipeline.compress.activations import watch

X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class BothStates(Recurrent):
    """Reads the last state of both directions and no output."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, last = self.steps(torch.relu(self.embed(x.squeeze(1))))
        hidden = last[0] if isinstance(last, tuple) else last
        return self.fc(torch.relu(self.hidden(torch.cat((hidden[0], hidden[1]), dim=1))))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("form", [{}, {"both": True}, {"batch_first": False}, {"batch_first": False, "both": True}])
def test_recurrent_layer_is_read_at_its_outputs_image_by_image(kind, form):
    network = settled(Recurrent(kind, **form))
    rows = torch.relu(network.embed(X.squeeze(1)))
    with torch.no_grad():
        expected = network.steps(rows if network.batch_first else rows.transpose(0, 1))[0]
        with watch(network, ("steps",)) as seen:
            network(X)
    assert torch.equal(seen["steps"].tensor, expected if network.batch_first else expected.transpose(0, 1))
    assert seen["steps"].activated
    assert seen["steps"].channel_dim == -1


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("make", [lambda kind: Recurrent(kind, state=True), lambda kind: BothStates(kind, both=True)])
def test_what_reads_the_last_state_alone_is_seen_and_computes_the_same(kind, make):
    network = settled(make(kind))
    expected = network(X)
    with watch(network, ("steps",)) as seen:
        output = network(X)
    assert torch.equal(output, expected)
    (gradient,) = torch.autograd.grad(output.square().sum(), [seen["steps"].tensor])
    ends = gradient[:, -1, :12].abs().sum() + (gradient[:, 0, 12:].abs().sum() if network.steps.bidirectional else 0)
    assert float(ends) == pytest.approx(float(gradient.abs().sum()))
    assert float(ends) > 0
