"""Which model runtimes are installed here, and how to reach them.

A runtime is a native library, so none is loaded before a model is. `litert` is ai-edge-litert or, on small Linux
machines, the older tflite-runtime, which has the same interpreter.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from sottovoce.privacy.errors import DeviceError

PACKAGES = {"litert": ("ai-edge-litert", "tflite-runtime"), "onnxruntime": ("onnxruntime",)}
"""Packages of each runtime, the preferred one first."""

_INTERPRETERS = ("ai_edge_litert.interpreter", "tflite_runtime.interpreter")


def installed() -> dict[str, str]:
    """The runtimes that are here, each with its version.

    Raises:
        DeviceError: there is none.
    """
    found = {}
    for runtime, packages in PACKAGES.items():
        if have := next(filter(None, map(_version, packages)), ""):
            found[runtime] = have
    if not found:
        raise DeviceError("no runtime is installed that could score the model", "install ai-edge-litert or onnxruntime")
    return found


def required(*runtimes: str) -> dict[str, str]:
    """These runtimes, each with its version.

    Raises:
        DeviceError: one of them is not installed.
    """
    found = {}
    for runtime in runtimes:
        found[runtime] = next(filter(None, map(_version, PACKAGES[runtime])), "")
        if not found[runtime]:
            raise DeviceError(f"the runtime {runtime} is not installed", f"install {' or '.join(PACKAGES[runtime])}")
    return found


def interpreter_class() -> Any:
    """The interpreter of TFLite files.

    Raises:
        DeviceError: neither package is installed, or its library does not load.
    """
    failed = []
    for name in _INTERPRETERS:
        try:
            return import_module(name).Interpreter
        except ImportError as error:
            failed.append(str(error))
    raise DeviceError(f"no runtime for model.tflite: {'; '.join(failed)}", f"install {' or '.join(PACKAGES['litert'])}")


def onnx_module() -> Any:
    """ONNX Runtime.

    Raises:
        DeviceError: it is not installed, or its library does not load.
    """
    try:
        return import_module("onnxruntime")
    except ImportError as error:
        raise DeviceError(f"no runtime for model.onnx: {error}", "install onnxruntime") from error


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
