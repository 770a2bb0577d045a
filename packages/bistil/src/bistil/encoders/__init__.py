"""What is known of an encoder's inside: its layers, their widths, and how to capture their activations."""
