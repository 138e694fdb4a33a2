"""Does a ranker consist of operators that both exports are known to write plainly? Asked before training, in a moment.

An export takes seconds and is made at release; an operator that no phone has would show up only then, with the budget
spent. Here the quantized module runs once on padding and torch tells each operator it calls, by name and variant. Every
one on the list stands in a module whose two exports hold nothing but the operators of theirs; a test holds the list
against those files. A listed operator can still be written otherwise for types or shapes not seen there, so that a
release looks at the files all the same.

Control flow is taken as it goes on padding. A branch on a value is no way around: reading the value is an operator too,
and not listed.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from sottovoce.models.onnx_export import example
from sottovoce.models.quantize import PLANES, quantize
from sottovoce.models.ranker import RankerConfig, initial
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import ConfigError

PLAIN_OPERATORS = frozenset(
    {
        "aten._softmax.default", "aten._to_copy.default", "aten._unsafe_view.default", "aten.add.Tensor",
        "aten.alias.default", "aten.bitwise_and.Tensor", "aten.cat.default", "aten.clone.default", "aten.div.Tensor",
        "aten.embedding.default", "aten.eq.Tensor", "aten.ge.Scalar", "aten.gt.Scalar", "aten.log.default",
        "aten.mm.default", "aten.mul.Tensor", "aten.ne.Scalar", "aten.ones_like.default", "aten.relu.default",
        "aten.select.int", "aten.sigmoid.default", "aten.slice.Tensor", "aten.stack.default", "aten.sub.Tensor",
        "aten.sum.dim_IntList", "aten.transpose.int", "aten.unsqueeze.default", "aten.view.default",
        "aten.zeros_like.default",
    }
)  # fmt: skip
"""Operators of torch that both exporters turn into operators of their own lists."""


def operators_used(module: nn.Module, inputs: Sequence[Tensor]) -> frozenset[str]:
    """Names of the operators that torch calls when `module` runs on `inputs`, without a gradient."""
    listener = _Listener()
    with torch.no_grad(), listener:
        module(*inputs)
    return frozenset(listener.heard)


def require_plain(schema: FeatureSchema, config: RankerConfig) -> None:
    """Let a ranker be trained that can be exported; its weights make no difference.

    Args:
        schema: the features it will read.
        config: its sizes.

    Raises:
        ConfigError: an operator is not on the list; it is named.
    """
    module = quantize(initial(schema, config, 0), schema, config, PLANES[-1], one_byte_scales=True)
    strangers = operators_used(module, example(schema, 2)) - PLAIN_OPERATORS
    if strangers:
        raise ConfigError(
            f"the ranker uses {', '.join(sorted(strangers))}, not known to exist in every runtime as a plain operator",
            "build it from the operators of models/plain_operators.py, or show that both exports of it are plain",
        )


class _Listener(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch does not type its subclassing
    """Runs every operator as it is, and remembers its name."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.heard: set[str] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        self.heard.add(str(func))
        return func(*args, **(kwargs or {}))
