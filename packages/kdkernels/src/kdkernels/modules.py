"""The losses as modules: options are set once, tensors come with each call."""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar, get_args

from torch import Tensor, nn

from kdkernels.attention_maps.map_loss import MapLoss
from kdkernels.attention_mse.api import attention_mse
from kdkernels.kl.api import kl
from kdkernels.linear_cross_entropy.api import CrossEntropy, linear_cross_entropy
from kdkernels.linear_distil_loss.api import DistilLoss, linear_distil_loss
from kdkernels.linear_kl.api import linear_kl
from kdkernels.logits_loss import Divergence
from kdkernels.relation_kl.api import relation_kl
from kdkernels.topk_kl.api import topk_kl

Result = TypeVar("Result")
# Keywords of the functions that belong to a batch; all other keywords are options.
OF_A_BATCH = ("log_partition", "mask", "row_weight", "divisor")


# Generic first: DeepSpeed, while it loads in shares, replaces what nn.Module does for a new class.
class LossModule(Generic[Result], nn.Module):
    """A loss function with its options set once; it has no parameters of its own.

    The options are those of the function, by the same names and with the same defaults: its keywords but for
    `log_partition`, `mask`, `row_weight` and `divisor`, which come with each call. A missing option and an unknown one are
    refused when the module is made, a value without a meaning when it is called, by the function. Each option is an
    attribute, and a tensor among them moves with the module.
    """

    function: ClassVar[Callable[..., Any]]
    options: ClassVar[inspect.Signature]
    inputs: ClassVar[tuple[str, ...]]

    def __init_subclass__(cls, *, options: tuple[str, ...] = ()) -> None:
        """Part the function's arguments into options and inputs; `options` are those that it takes by position."""
        super().__init_subclass__()
        arguments = inspect.signature(cls.function).parameters
        positional = [
            name
            for name, argument in arguments.items()
            if argument.kind is argument.POSITIONAL_OR_KEYWORD and name not in options
        ]
        cls.inputs = tuple(positional)
        cls.options = inspect.Signature(
            [a for name, a in arguments.items() if name not in (*positional, *OF_A_BATCH)]
        )
        cls.__signature__ = cls.options  # type: ignore[attr-defined]  # what help() shows

    def __init__(self, *args: Any, **options: Any) -> None:
        """Set the options."""
        super().__init__()
        bound = self.options.bind(*args, **options)
        bound.apply_defaults()
        for name, value in bound.arguments.items():
            if Tensor in get_args(self.options.parameters[name].annotation):
                self.register_buffer(name, value, persistent=False)
            else:
                setattr(self, name, value)

    def forward(self, *tensors: Any, **call: Any) -> Result:
        """The loss of one batch: the function's tensors by position, and by keyword what the call has of its own.

        An option given here holds for this call alone.
        """
        if len(tensors) > len(self.inputs):
            raise TypeError(
                f"{type(self).__name__} takes {', '.join(self.inputs)} by position; got {len(tensors)} arguments"
            )
        options = {name: getattr(self, name) for name in self.options.parameters}
        inputs = dict(zip(self.inputs, tensors, strict=False))
        return type(self).function(**inputs, **{**options, **call})

    def extra_repr(self) -> str:
        """The options that differ from their defaults."""
        stated = {
            name: getattr(self, name)
            for name, option in self.options.parameters.items()
            if getattr(self, name) is not option.default and getattr(self, name) != option.default
        }
        return ", ".join(
            f"{name}={list(value.shape) if isinstance(value, Tensor) else repr(value)}"
            for name, value in stated.items()
        )


class LinearDistilLoss(LossModule[DistilLoss]):
    """(1-alpha)·CE(z, label) + alpha·T² D(teacher's top-k, softmax(z / T)), z = hidden weightᵀ + bias.

    As `kdkernels.linear_distil_loss`.

    Example:
        >>> import torch, kdkernels
        >>> loss = kdkernels.LinearDistilLoss(alpha=0.7, temperature=2.0, tail="renormalise")
        >>> loss
        LinearDistilLoss(alpha=0.7, temperature=2.0, tail='renormalise')
        >>> hidden, weight = torch.randn(2, 8), torch.randn(20, 8)
        >>> labels, ids, logprobs = torch.tensor([1, 7]), torch.tensor([[1, 2], [7, 3]]), torch.zeros(2, 2).log_softmax(1)
        >>> loss(hidden, weight, None, labels, ids, logprobs).rows
        2
    """

    function = staticmethod(linear_distil_loss)


class LinearCrossEntropy(LossModule[CrossEntropy]):
    """-log softmax(hidden weightᵀ + bias)[label]. As `kdkernels.linear_cross_entropy`."""

    function = staticmethod(linear_cross_entropy)


class TopkKl(LossModule[Divergence]):
    """T² D(teacher's top-k, softmax(logits / T)). As `kdkernels.topk_kl`."""

    function = staticmethod(topk_kl)


class Kl(LossModule[Divergence]):
    """T² D(softmax(teacher / T), softmax(student / T)). As `kdkernels.kl`."""

    function = staticmethod(kl)


class LinearKl(LossModule[Divergence]):
    """T² D(softmax(z_t / T), softmax(z_s / T)), z = hidden weightᵀ + bias. As `kdkernels.linear_kl`."""

    function = staticmethod(linear_kl)


class AttentionMse(LossModule[MapLoss]):
    """Mean of (A_s - A_t)², A = softmax(scale · q kᵀ). As `kdkernels.attention_mse`."""

    function = staticmethod(attention_mse)


class RelationKl(LossModule[MapLoss], options=("heads",)):
    """Mean of Σⱼ R_t (log R_t - log R_s), R = softmax(x xᵀ / √d) in `heads` heads. As `kdkernels.relation_kl`."""

    function = staticmethod(relation_kl)
