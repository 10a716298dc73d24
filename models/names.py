"""The networks that are part of edgec, by name: what `[model] name` in deploy.toml may say."""

import difflib
from collections.abc import Mapping

from edgec.pipeline.core.errors import ConfigError

NETWORKS: Mapping[str, str] = {
    "efficientnet_lite0": "edgec.models.efficientnet:efficientnet_lite0",
    "lstm": "edgec.models.lstm:lstm",
    "mobilenet_v2": "edgec.models.mobilenet:mobilenet_v2",
    "resnet20": "edgec.models.resnet:resnet20",
    "resnet56": "edgec.models.resnet:resnet56",
    "shufflenet_v2": "edgec.models.shufflenet:shufflenet_v2",
    "vgg8": "edgec.models.vgg:vgg8",
    "vgg16": "edgec.models.vgg:vgg16",
    "vgg19": "edgec.models.vgg:vgg19",
    "vit": "edgec.models.vit:vit",
}


def builder_of(text: str) -> str:
    """The "package.module:callable" of one of these networks; a text with a colon is one already.

    Raises:
        ConfigError: there is no network of this name.
    """
    if ":" in text or text in NETWORKS:
        return NETWORKS.get(text, text)
    near = difflib.get_close_matches(text, NETWORKS, 1)
    raise ConfigError(
        f"there is no network {text!r}",
        hint=f"did you mean {near[0]!r}?" if near else f'edgec has {", ".join(NETWORKS)}; your own is builder = "package.module:callable"',
    )
