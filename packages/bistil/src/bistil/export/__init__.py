"""A student to be served: ONNX graphs in full and in eight bits, checked against torch, with a README."""
