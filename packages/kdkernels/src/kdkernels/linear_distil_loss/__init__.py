"""Hard cross-entropy and top-k distillation from hidden states, without the logits."""
