"""The worker: runs ONNX models for pay, signs a receipt for each request, trusts nobody."""
