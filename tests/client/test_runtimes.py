import importlib.metadata
import sys
from types import ModuleType

import pytest

from sottovoce.client import runtimes
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer
from sottovoce.privacy.errors import DeviceError


@pytest.fixture
def nothing(monkeypatch):
    """A machine without any model runtime."""
    for name in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None)

    def version(package):
        raise importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(runtimes, "version", version)
    return monkeypatch


def test_the_runtimes_that_are_here_are_named_with_their_versions():
    found = runtimes.installed()
    assert found["onnxruntime"] == importlib.metadata.version("onnxruntime")
    assert runtimes.required("litert") == {"litert": found["litert"]}


def test_where_there_is_none_every_way_to_a_model_says_what_to_install(nothing):
    with pytest.raises(DeviceError, match="no runtime is installed"):
        runtimes.installed()
    with pytest.raises(DeviceError, match="litert is not installed") as told:
        runtimes.required("litert")
    assert told.value.todo == "install ai-edge-litert or tflite-runtime"
    with pytest.raises(DeviceError, match=r"no runtime for model\.tflite"):
        LiteRTScorer(b"model")
    with pytest.raises(DeviceError, match=r"no runtime for model\.onnx"):
        OnnxScorer(b"model")


def test_the_older_package_stands_in_for_the_newer_one(nothing):
    asked = []

    class Interpreter:
        def __init__(self, model_content, num_threads):
            asked.append((model_content, num_threads))

        def get_signature_list(self):
            return {}

    older = ModuleType("tflite_runtime.interpreter")
    older.Interpreter = Interpreter
    nothing.setitem(sys.modules, "tflite_runtime", ModuleType("tflite_runtime"))
    nothing.setitem(sys.modules, "tflite_runtime.interpreter", older)
    with pytest.raises(DeviceError, match="no signature"):
        LiteRTScorer(b"a model")
    assert asked == [(b"a model", 1)]
    known = {"tflite-runtime": "2.14.0"}

    def version(package):
        if package not in known:
            raise importlib.metadata.PackageNotFoundError(package)
        return known[package]

    nothing.setattr(runtimes, "version", version)
    assert runtimes.installed() == {"litert": "2.14.0"}
