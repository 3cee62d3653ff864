"""Text generation by onnxruntime-genai, in a process of its own: its calls hold Python's lock while they run."""
