"""Open Inference Protocol v2 over gRPC on its own port: the same handler, prices and receipts as over HTTP."""
