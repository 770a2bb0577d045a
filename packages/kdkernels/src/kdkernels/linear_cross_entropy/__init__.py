"""Cross-entropy from hidden states, without the logits."""
