"""8 bit by static ranges: a float network becomes a fake-quantised one that computes what integer kernels compute.

    folded graph ── sites.py ──▶ where ── ranges.py ──▶ scales ──▶ ScaleTable ──▶ QuantNet

Measured (study of 2026-11, small VGG on Fashion-MNIST): at 8 bit these ranges alone keep accuracy and agree with the float network more
often than any training does. Where they miss the tolerance, sqakd.py continues from here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from edgec.models.narrow import narrow
from edgec.pipeline.compress.fake_quant import SMALLEST_SCALE, centred, channelwise, fake_quantise, limits, weight_scales
from edgec.pipeline.compress.folding import fold, untied
from edgec.pipeline.compress.ranges import Batch, activation_grids, inputs_from
from edgec.pipeline.compress.scale_table import ScaleTable, SiteScale, WeightScale
from edgec.pipeline.compress.sites import ceiling, quantised_layers, sites
from edgec.pipeline.core.errors import CompressionError, ModelError
from edgec.pipeline.core.records import Precision
from edgec.pipeline.core.settings import QuantiseSettings

BIAS_LIMIT = 2**30
"""Largest bias integer that the search allows, half of int32: training may still shrink the scales a little."""


def quantise(
    module: nn.Module,
    example_input: Batch,
    calibration_batches: Sequence[Batch],
    *,
    settings: QuantiseSettings,
    bits: int = 8,
    symmetric: bool = False,
) -> "QuantNet":
    """Static quantisation. The result is in evaluation mode on the CPU; `module` is not touched.

    Args:
        example_input: one input (or one for each input) with its batch dimension; only its shape matters.
        calibration_batches: preprocessed images; batches are taken until `settings.samples` images are reached.
        bits: 8 for deployment; fewer is simulation only.
        symmetric: activation grids have their zero point in the middle, for a runtime that has no others (TensorRT).

    Raises:
        ModelError: the network cannot be traced, does not run on the example, or has activations that are not finite.
        CompressionError: the precision is not int8, there are no images, or a layer is used twice.
    """
    if settings.precision is not Precision.INT8:
        raise CompressionError(f"quantise makes int8 networks, not {settings.precision}", hint='set precision = "int8" in [quantise]')
    folded = untied(fold(module))
    example = tuple(x.cpu() for x in inputs_from(example_input))
    places = sites(folded, example)
    grids = activation_grids(folded, tuple(places), _first_images(calibration_batches, settings.samples), bits)
    if symmetric:
        grids = {name: centred(*grid, bits) for name, grid in grids.items()}
    layers = quantised_layers(folded, {node: site for site, nodes in places.items() for node in nodes})
    table = ScaleTable(
        sites={s: SiteScale(scale=grids[s][0], zero_point=grids[s][1], nodes=nodes, bits=bits) for s, nodes in places.items()},
        weights={name: _weight_scale(folded.get_submodule(name), site, grids[site][0], bits) for name, site in layers.items()},
    )
    return QuantNet(folded, table).eval()


def load_quantised(dense_module: nn.Module, tensors: Mapping[str, Tensor], table: ScaleTable) -> "QuantNet":
    """The network that `QuantNet.tensors()` and `.table()` were taken from, bit for bit.

    Args:
        dense_module: as the model's builder makes it; its layers may be wider than the saved ones.

    Raises:
        ModelError: tensors or table do not belong to this network.
    """
    folded = untied(fold(dense_module))
    narrow(folded, tensors)
    return QuantNet(folded, table).eval()


class ActQuant(nn.Module):
    """Fake quantisation of one activation with a scale that can be learned: scale = scale0 * exp(log_ratio), at most `largest`."""

    def __init__(self, site: SiteScale, largest: float) -> None:
        super().__init__()
        self.bounds, self.zero_point, self.bits, self.largest = limits(site.bits, signed=site.signed), site.zero_point, site.bits, largest
        self.register_buffer("scale0", torch.tensor(site.scale))
        self.log_ratio = nn.Parameter(torch.zeros(()))

    scale0: Tensor

    def scale(self) -> Tensor:
        """Scalar. Clipped where the grid follows a clip, so that the grid never reaches past it and the clip itself can go."""
        return (self.scale0 * self.log_ratio.exp()).clamp(SMALLEST_SCALE, self.largest)

    def forward(self, x: Tensor) -> Tensor:
        return fake_quantise(x, self.scale(), self.zero_point, self.bounds)


class WeightQuant(nn.Module):
    """Fake quantisation of one weight with one learnable scale per output channel."""

    def __init__(self, weight: WeightScale) -> None:
        super().__init__()
        self.bounds, self.bits, self.input = limits(weight.bits, signed=weight.signed), weight.bits, weight.input
        self.register_buffer("scale0", torch.tensor(weight.scales))
        self.log_ratio = nn.Parameter(torch.zeros(len(weight.scales)))

    scale0: Tensor

    def scale(self) -> Tensor:
        """(out,)."""
        return (self.scale0 * self.log_ratio.exp()).clamp_min(SMALLEST_SCALE)

    def forward(self, weight: Tensor) -> Tensor:
        return fake_quantise(weight, channelwise(self.scale(), weight), 0, self.bounds)


class QuantNet(nn.Module):
    """A folded network run with quantised activations and weights.

    In evaluation mode biases are rounded to int32 as well: the reference form, which a runtime must reproduce. `folded` keeps its float
    weights under the network's own names. BatchNorm is merged before any training, so that what is trained is what is exported; dropout
    is gone.
    """

    def __init__(self, folded: fx.GraphModule, table: ScaleTable) -> None:
        super().__init__()
        table.check()
        nodes = {node.name: node for node in folded.graph.nodes}
        unknown = [n for site in table.sites.values() for n in site.nodes if n not in nodes]
        unknown += [name for name in table.weights if name not in dict(folded.named_modules())]
        if unknown:
            raise ModelError(f"the scale table is of another network: {', '.join(unknown[:3])}", context={"names": unknown})
        for name, weight in table.weights.items():
            if len(weight.scales) != _layer(folded, name).weight.shape[0]:
                raise ModelError(f"the scale table is of another network: {name} has {len(weight.scales)} scales", context={"layer": name})
        self.folded = folded.requires_grad_()  # folding makes biases that do not ask for it
        self.places = {site: entry.nodes for site, entry in table.sites.items()}
        self.site_of = {node: site for site, members in self.places.items() for node in members}
        self.activations = nn.ModuleDict(
            {name: ActQuant(site, _largest_scale(folded, nodes[site.nodes[0]], site)) for name, site in table.sites.items()}
        )
        self.layers = tuple(table.weights)
        self.weights = nn.ModuleDict({_key(name): WeightQuant(weight) for name, weight in table.weights.items()})

    def forward(self, *inputs: Tensor) -> Any:
        return Run(self).run(*inputs)

    def activation(self, site: str) -> ActQuant:
        quantiser = self.activations[site]
        assert isinstance(quantiser, ActQuant)
        return quantiser

    def weight(self, layer: str) -> WeightQuant:
        quantiser = self.weights[_key(layer)]
        assert isinstance(quantiser, WeightQuant)
        return quantiser

    def table(self) -> ScaleTable:
        """The scales as they are now."""
        return ScaleTable(
            sites={
                name: SiteScale(scale=q.scale().item(), zero_point=q.zero_point, nodes=self.places[name], bits=q.bits)
                for name, q in ((name, self.activation(name)) for name in self.places)
            },
            weights={
                name: WeightScale(scales=tuple(q.scale().tolist()), input=q.input, bits=q.bits)
                for name, q in ((name, self.weight(name)) for name in self.layers)
            },
        )

    def tensors(self) -> dict[str, Tensor]:
        """Folded float weights (and buffers of what could not be folded), for safetensors."""
        return {name: value.detach().cpu().contiguous() for name, value in self.folded.state_dict().items()}


class Run(fx.Interpreter):
    """One forward pass: layers with quantised weights, then each site's output on its grid."""

    def __init__(self, net: QuantNet) -> None:
        super().__init__(net.folded)
        self.net = net

    def run_node(self, n: fx.Node) -> Any:
        value = self._layer(n) if n.op == "call_module" and n.target in self.net.layers else super().run_node(n)
        site = self.net.site_of.get(n.name)
        return value if site is None else self.net.activation(site)(value)

    def _layer(self, node: fx.Node) -> Tensor:
        (x,), _ = self.fetch_args_kwargs_from_env(node)
        layer, quantiser = _layer(self.net.folded, str(node.target)), self.net.weight(str(node.target))
        values = {"weight": quantiser(layer.weight)}
        if layer.bias is not None and not self.net.training:
            values["bias"] = rounded_bias(layer.bias, self.net.activation(quantiser.input).scale() * quantiser.scale())
        result: Tensor = functional_call(layer, values, (x,))
        return result


def rounded_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """A bias (out,) on its int32 grid of `scale` (out,): input scale times weight scale."""
    return torch.round(bias / scale).clamp(-(2**31), 2**31 - 1) * scale


def _layer(folded: fx.GraphModule, name: str) -> nn.Conv1d | nn.Conv2d | nn.Linear:
    layer = folded.get_submodule(name)
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    return layer


def _key(layer: str) -> str:
    """ModuleDict keys hold no dots."""
    return layer.replace(".", "/")


def _first_images(batches: Sequence[Batch], samples: int) -> list[Batch]:
    taken: list[Batch] = []
    seen = 0
    for batch in batches:
        if seen >= samples:
            break
        taken.append(tuple(x.cpu() for x in batch) if isinstance(batch, tuple) else batch.cpu())
        seen += len(inputs_from(batch)[0])
    return taken


def _weight_scale(layer: nn.Module, site: str, input_scale: float, bits: int) -> WeightScale:
    """Searched scales, widened where a channel's weights are so small beside its bias that the bias would leave int32."""
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear)
    scales = weight_scales(layer.weight, bits)
    if layer.bias is not None:
        scales = torch.maximum(scales, layer.bias.detach().abs() / (input_scale * BIAS_LIMIT))
    return WeightScale(scales=tuple(scales.tolist()), input=site, bits=bits)


def _largest_scale(folded: fx.GraphModule, producer: fx.Node, site: SiteScale) -> float:
    """Scale at which the grid just reaches the ceiling of the clip that it follows; a part in a million less, for float32 products."""
    top = ceiling(folded, producer)
    return float("inf") if top is None else top * (1 - 1e-6) / (limits(site.bits, signed=site.signed)[1] - site.zero_point)
