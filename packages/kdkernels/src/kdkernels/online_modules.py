"""The losses against a teacher that runs beside the student, as modules: options once, tensors with each call."""

from torch import Tensor, nn

from kdkernels.attention_maps.sums import MapLoss
from kdkernels.attention_mse.api import attention_mse
from kdkernels.linear_kl.api import linear_kl
from kdkernels.relation_kl.api import relation_kl
from kdkernels.topk_kl.api import Divergence


class LinearKl(nn.Module):
    """`linear_kl` with its options set once; it has no parameters of its own."""

    column_map: Tensor | None

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        divergence: str = "forward_kl",
        beta: float = 0.5,
        column_map: Tensor | None = None,
        vocab_size: int | None = None,
        teacher_vocab_size: int | None = None,
        chunk_bytes: int | None = None,
        impl: str = "auto",
    ) -> None:
        """Set the options; they are those of the function, and are checked when it is called."""
        super().__init__()
        self.temperature = temperature
        self.divergence = divergence
        self.beta = beta
        self.vocab_size = vocab_size
        self.teacher_vocab_size = teacher_vocab_size
        self.chunk_bytes = chunk_bytes
        self.impl = impl
        self.register_buffer("column_map", column_map, persistent=False)

    def forward(
        self,
        hidden_s: Tensor,
        weight_s: Tensor,
        bias_s: Tensor | None,
        hidden_t: Tensor,
        weight_t: Tensor,
        bias_t: Tensor | None,
        *,
        mask: Tensor | None = None,
        row_weight: Tensor | None = None,
        divisor: float | Tensor | None = None,
    ) -> Divergence:
        """As the function."""
        return linear_kl(
            hidden_s,
            weight_s,
            bias_s,
            hidden_t,
            weight_t,
            bias_t,
            temperature=self.temperature,
            divergence=self.divergence,
            beta=self.beta,
            column_map=self.column_map,
            vocab_size=self.vocab_size,
            teacher_vocab_size=self.teacher_vocab_size,
            mask=mask,
            row_weight=row_weight,
            divisor=divisor,
            chunk_bytes=self.chunk_bytes,
            impl=self.impl,
        )


class AttentionMse(nn.Module):
    """`attention_mse` with its options set once; it has no parameters of its own."""

    def __init__(
        self,
        *,
        window: int | None = None,
        scale_s: float | None = None,
        scale_t: float | None = None,
        chunk_bytes: int | None = None,
        impl: str = "auto",
    ) -> None:
        """Set the options; they are those of the function, and are checked when it is called."""
        super().__init__()
        self.window = window
        self.scale_s = scale_s
        self.scale_t = scale_t
        self.chunk_bytes = chunk_bytes
        self.impl = impl

    def forward(
        self,
        q_s: Tensor,
        k_s: Tensor,
        q_t: Tensor,
        k_t: Tensor,
        mask: Tensor | None = None,
        *,
        divisor: float | Tensor | None = None,
    ) -> MapLoss:
        """As the function."""
        return attention_mse(
            q_s,
            k_s,
            q_t,
            k_t,
            mask,
            window=self.window,
            scale_s=self.scale_s,
            scale_t=self.scale_t,
            divisor=divisor,
            chunk_bytes=self.chunk_bytes,
            impl=self.impl,
        )


class RelationKl(nn.Module):
    """`relation_kl` with its options set once; it has no parameters of its own."""

    def __init__(self, heads: int, *, chunk_bytes: int | None = None, impl: str = "auto") -> None:
        """Set the options; they are those of the function, and are checked when it is called."""
        super().__init__()
        self.heads = heads
        self.chunk_bytes = chunk_bytes
        self.impl = impl

    def forward(
        self,
        x_s: Tensor,
        x_t: Tensor,
        mask: Tensor | None = None,
        *,
        divisor: float | Tensor | None = None,
    ) -> MapLoss:
        """As the function."""
        return relation_kl(
            x_s,
            x_t,
            self.heads,
            mask,
            divisor=divisor,
            chunk_bytes=self.chunk_bytes,
            impl=self.impl,
        )
