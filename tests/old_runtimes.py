"""Score a bundle's golden requests on old runtimes; started by `make old-runtimes` in an environment of its own.

tflite-runtime 2.14 was built for numpy 1 and cannot share an environment with anything else here, so this file imports
nothing of ours and reads the bundle as the plain zip it is.
"""

import json
import sys
import zipfile

import numpy as np
import onnxruntime
import tflite_runtime
from tflite_runtime.interpreter import Interpreter

TOLERANCE = 1e-5


def main(path):
    with zipfile.ZipFile(path) as bundle:
        golden = json.loads(bundle.read("golden.json"))
        interpreter = Interpreter(model_content=bundle.read("model.tflite"), num_threads=1)
        session = onnxruntime.InferenceSession(bundle.read("model.onnx"), providers=["CPUExecutionProvider"])
    sizes = sorted(int(name.rpartition("_")[2]) for name in interpreter.get_signature_list())
    worst = {f"tflite-runtime {tflite_runtime.__version__}": 0.0, f"onnxruntime {onnxruntime.__version__}": 0.0}
    for request in golden:
        inputs = {name: np.array(request[name], np.int32) for name in ("context", "events", "outcomes", "ad")}
        count = len(inputs["ad"])
        inputs["context"] = inputs["context"].reshape(1, -1)
        expected = np.array(request["scores"], np.float32).reshape(count, -1)
        by_onnx = session.run(None, inputs)[0]
        size = next(size for size in sizes if size >= count)
        padded = {**inputs, "ad": np.pad(inputs["ad"], ((0, size - count), (0, 0)))}
        by_tflite = interpreter.get_signature_runner(f"rank_{size}")(**padded)["scores"][:count]
        for name, scores in zip(worst, (by_tflite, by_onnx), strict=True):
            worst[name] = max(worst[name], float(np.abs(scores - expected).max()))
    for name, difference in worst.items():
        print(f"{name}: {len(golden)} golden requests within {difference:.1e}")
    return 0 if max(worst.values()) <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
