"""What is minimised: attention, hidden states and relations in phase 1, the task's soft labels in phase 2."""
