"""The one door to onnxruntime-genai: telemetry is off before its library is loaded, whoever imports it first."""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

import onnxruntime_genai as og

__all__ = ["og"]
