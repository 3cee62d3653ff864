"""From a request to the tensors of an ONNX graph and back, one module a task; the manifest's task chooses."""
