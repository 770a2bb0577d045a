"""The losses over a vocabulary as modules: options are set once, tensors come with each call."""

from torch import Tensor, nn

from kdkernels.kl.api import kl
from kdkernels.linear_cross_entropy.api import CrossEntropy, linear_cross_entropy
from kdkernels.linear_distil_loss.api import DistilLoss, linear_distil_loss
from kdkernels.topk_kl.api import Divergence, topk_kl


class LinearDistilLoss(nn.Module):
    """`linear_distil_loss` with its options set once; it has no parameters of its own."""

    def __init__(
        self,
        *,
        alpha: float,
        temperature: float = 1.0,
        tail: str = "bucket",
        divergence: str = "forward_kl",
        beta: float = 0.5,
        ignore_index: int = -100,
        chunk_bytes: int | None = None,
        impl: str = "auto",
    ) -> None:
        """Set the options; they are those of the function, and are checked when it is called.

        Args:
            alpha: weight of the soft part, from 0 to 1; `forward` takes another for one call.
            temperature: T, of both distributions in the soft part.
            tail: "bucket", "renormalise" or "drop".
            divergence: "forward_kl", "reverse_kl" or "jsd".
            beta: β of "jsd".
            ignore_index: the label of rows that do not count.
            chunk_bytes: size of the logits buffer.
            impl: "auto", "reference", "torch" or "triton".
        """
        super().__init__()
        self.alpha = alpha
        self.temperature = temperature
        self.tail = tail
        self.divergence = divergence
        self.beta = beta
        self.ignore_index = ignore_index
        self.chunk_bytes = chunk_bytes
        self.impl = impl

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        topk_ids: Tensor,
        topk_logprobs: Tensor,
        *,
        alpha: float | None = None,
        log_partition: Tensor | None = None,
        row_weight: Tensor | None = None,
        divisor: float | Tensor | None = None,
    ) -> DistilLoss:
        """The loss of one batch; arguments as for the function, `alpha` in place of the module's."""
        return linear_distil_loss(
            hidden,
            weight,
            bias,
            labels,
            topk_ids,
            topk_logprobs,
            alpha=self.alpha if alpha is None else alpha,
            temperature=self.temperature,
            tail=self.tail,
            divergence=self.divergence,
            beta=self.beta,
            log_partition=log_partition,
            row_weight=row_weight,
            ignore_index=self.ignore_index,
            divisor=divisor,
            chunk_bytes=self.chunk_bytes,
            impl=self.impl,
        )


class LinearCrossEntropy(nn.Module):
    """`linear_cross_entropy` with its options set once; it has no parameters of its own."""

    def __init__(
        self, *, ignore_index: int = -100, chunk_bytes: int | None = None, impl: str = "auto"
    ) -> None:
        """Set the options.

        Args:
            ignore_index: the label of rows that do not count.
            chunk_bytes: size of the logits buffer.
            impl: "auto", "reference", "torch" or "triton".
        """
        super().__init__()
        self.ignore_index = ignore_index
        self.chunk_bytes = chunk_bytes
        self.impl = impl

    def forward(
        self,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        *,
        row_weight: Tensor | None = None,
        divisor: float | Tensor | None = None,
    ) -> CrossEntropy:
        """The loss of one batch; arguments as for the function."""
        return linear_cross_entropy(
            hidden,
            weight,
            bias,
            labels,
            row_weight=row_weight,
            ignore_index=self.ignore_index,
            divisor=divisor,
            chunk_bytes=self.chunk_bytes,
            impl=self.impl,
        )


class TopkKl(nn.Module):
    """`topk_kl` with its options set once; it has no parameters of its own."""

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        tail: str = "bucket",
        divergence: str = "forward_kl",
        beta: float = 0.5,
        overwrite_logits: bool = False,
        impl: str = "auto",
    ) -> None:
        """Set the options.

        Args:
            temperature: T, of both distributions.
            tail: "bucket", "renormalise" or "drop".
            divergence: "forward_kl", "reverse_kl" or "jsd".
            beta: β of "jsd".
            overwrite_logits: write the gradient over the logits.
            impl: "auto", "reference", "torch" or "triton".
        """
        super().__init__()
        self.temperature = temperature
        self.tail = tail
        self.divergence = divergence
        self.beta = beta
        self.overwrite_logits = overwrite_logits
        self.impl = impl

    def forward(
        self,
        logits: Tensor,
        topk_ids: Tensor,
        topk_logprobs: Tensor,
        *,
        log_partition: Tensor | None = None,
        mask: Tensor | None = None,
        row_weight: Tensor | None = None,
        divisor: float | Tensor | None = None,
    ) -> Divergence:
        """The loss of one batch; arguments as for the function."""
        return topk_kl(
            logits,
            topk_ids,
            topk_logprobs,
            temperature=self.temperature,
            tail=self.tail,
            divergence=self.divergence,
            beta=self.beta,
            log_partition=log_partition,
            mask=mask,
            row_weight=row_weight,
            divisor=divisor,
            overwrite_logits=self.overwrite_logits,
            impl=self.impl,
        )


class Kl(nn.Module):
    """`kl` with its options set once; it has no parameters of its own."""

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        divergence: str = "forward_kl",
        beta: float = 0.5,
        overwrite_logits: bool = False,
        impl: str = "auto",
    ) -> None:
        """Set the options.

        Args:
            temperature: T, of both distributions.
            divergence: "forward_kl", "reverse_kl" or "jsd".
            beta: β of "jsd".
            overwrite_logits: write the gradient over the student's logits.
            impl: "auto", "reference", "torch" or "triton".
        """
        super().__init__()
        self.temperature = temperature
        self.divergence = divergence
        self.beta = beta
        self.overwrite_logits = overwrite_logits
        self.impl = impl

    def forward(
        self,
        student: Tensor,
        teacher: Tensor,
        *,
        mask: Tensor | None = None,
        row_weight: Tensor | None = None,
        divisor: float | Tensor | None = None,
    ) -> Divergence:
        """The loss of one batch; arguments as for the function."""
        return kl(
            student,
            teacher,
            temperature=self.temperature,
            divergence=self.divergence,
            beta=self.beta,
            mask=mask,
            row_weight=row_weight,
            divisor=divisor,
            overwrite_logits=self.overwrite_logits,
            impl=self.impl,
        )
