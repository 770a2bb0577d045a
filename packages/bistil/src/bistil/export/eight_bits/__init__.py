"""A float32 graph in eight bits: of ONNX and of OpenVINO, and the way that is best for a kind of processor."""
