"""What the losses have in common as operators of torch, which a compiled graph holds as single nodes.

An operator puts out the loss first and its gradients last; `backward` only multiplies them. A gradient that nobody wants
is an empty tensor. A second derivative would take the multiplied gradients for constants: outside of a graph there is one more
output, the anchor, empty and saved, by which they lead back to the operands, to a refusal.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from kdkernels.checks import KernelArgumentError
from kdkernels.compiling import has_values
from kdkernels.reduction import scaled

P = ParamSpec("P")
Outputs = TypeVar("Outputs", bound=tuple[Tensor, ...])

# Of `torch.ops`: the package's name, under which a copy of it, as the Hub's kernels library loads one, differs.
NAMESPACE = __name__.rpartition(".")[0].replace(".", "_")


def loss_operator(
    name: str, operands: Sequence[int], *, fake: Callable[..., Any], rescaled: bool = False
) -> Callable[[Callable[P, Outputs]], Callable[P, Outputs]]:
    """Make an operator of torch of a function of tensors and numbers, differentiable once.

    A call outside of a graph runs the function itself: the operator's machinery would import the compiler. Either way it runs
    while the device of its first argument is current, on which Triton launches kernels wherever the tensors are.

    Args:
        name: of the operator.
        operands: places of the arguments whose gradients the last outputs are, in their order.
        fake: from the same arguments to outputs without values.
        rescaled: whether the output before the gradients holds what they are multiplied with; empty for nothing.

    Returns:
        A decorator.
    """
    kept = len(operands) + rescaled

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any, *anchor: Tensor) -> None:
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)  # zeros for outputs that nobody differentiates are large
        ctx.save_for_backward(*output[-kept:], *anchor)
        ctx.dtypes = [None if inputs[place] is None else inputs[place].dtype for place in operands]
        ctx.arguments = len(inputs)

    def backward(ctx: Any, grad_output: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        results: list[Tensor | None] = [None] * ctx.arguments
        if grad_output is None:
            return tuple(results)
        saved = ctx.saved_tensors
        with torch.no_grad():
            factor = grad_output / saved[0] if rescaled and saved[0].numel() else grad_output
            for place, gradient, dtype in zip(
                operands, saved[kept - len(operands) : kept], ctx.dtypes, strict=True
            ):
                if ctx.needs_input_grad[place]:
                    results[place] = scaled(gradient, factor, dtype, impl=ctx.impl)
        return differentiable_once(results, grad_output, *saved[kept:])

    def decorate(function: Callable[P, Outputs]) -> Callable[P, Outputs]:
        place_of_impl = list(inspect.signature(function).parameters).index("impl")

        @functools.wraps(function)
        def guarded(*arguments: Any) -> Any:
            with torch.cuda.device_of(arguments[0]):
                # The ignored error: these are the arguments of P, which no caller of a torch Function types.
                return function(*arguments)  # type: ignore[call-arg]

        operator = torch.library.custom_op(f"{NAMESPACE}::{name}", guarded, mutates_args=())
        operator.register_fake(fake)

        def keep(ctx: Any, inputs: tuple[Any, ...], output: Any, *anchor: Tensor) -> None:
            ctx.impl = inputs[place_of_impl]
            setup_context(ctx, inputs, output, *anchor)

        operator.register_autograd(backward, setup_context=keep)

        def forward(ctx: Any, *arguments: Any) -> Any:
            output, anchor = guarded(*arguments), arguments[0].new_empty(0)
            keep(ctx, arguments, output, anchor)
            return *output, anchor

        methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
        outside: Any = type(name, (torch.autograd.Function,), methods)

        @functools.wraps(function)
        def call(*arguments: P.args, **_: P.kwargs) -> Outputs:
            if torch.compiler.is_compiling() or not has_values(arguments[0]):
                return operator(*arguments)
            return outside.apply(*arguments)[:-1]  # without the anchor

        return call

    return decorate


def differentiable_once(
    gradients: Sequence[Tensor | None], *sources: Tensor
) -> tuple[Tensor | None, ...]:
    """What `backward` returns, from which a derivative refuses to go on instead of passing for 0.

    Args:
        gradients: by the operands, or None.
        sources: what leads back to the operands: the gradient of the loss, and an output of `forward`, saved by it, which has
            no elements.
    """
    if not torch.is_grad_enabled():
        return tuple(gradients)
    if not any(source.requires_grad for source in sources):
        sources = (sources[0].detach().requires_grad_(),)
    return _DifferentiableOnce.apply(len(sources), *sources, *gradients)


class _DifferentiableOnce(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, sources: int, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        return tensors[sources:]

    @staticmethod
    def backward(_: Any, *__: Tensor | None) -> None:
        raise KernelArgumentError(
            "second derivatives cannot pass through the implementations 'torch' and 'triton', which make the gradient "
            "with the loss; ask for impl='reference' there"
        )


def or_empty(gradient: Tensor | None, like: Tensor) -> Tensor:
    """What an operator puts out for a gradient, in rows one after the other; it has no None."""
    return like.new_empty(0) if gradient is None else gradient.contiguous()
