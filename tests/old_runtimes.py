"""Score a bundle on old runtimes; started by `make old-runtimes` in an environment of its own.

tflite-runtime 2.14 was built for numpy 1 and cannot share an environment with anything else here, so this file imports
nothing of ours: it reads the bundle as the plain zip it is, and the requests as `tests/scored_requests.py` wrote them.
An engine that is not installed is left out, so the same file runs wherever one of them does.
"""

import json
import sys
import zipfile

import numpy as np

TOLERANCE = 1e-5
MOST_CHANGED = 0.001  # scores that lie on an edge of the grid may fall to either side of it
GRID = 1e-6  # as in `models.request`
INPUTS = ("context", "events", "outcomes", "ad")


def winner(scores):
    return int(np.argmax(np.rint(scores.astype(np.float64).prod(-1) / GRID)))


def tflite(model):
    try:
        import tflite_runtime as package
        from tflite_runtime.interpreter import Interpreter
    except ImportError:
        import ai_edge_litert as package
        from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_content=model, num_threads=1)
    sizes = sorted(int(name.rpartition("_")[2]) for name in interpreter.get_signature_list())

    def score(inputs):
        count = len(inputs["ad"])
        size = next(size for size in sizes if size >= count)
        padded = {**inputs, "ad": np.pad(inputs["ad"], ((0, size - count), (0, 0)))}
        return interpreter.get_signature_runner(f"rank_{size}")(**padded)["scores"][:count]

    return f"{package.__name__} {getattr(package, '__version__', '')}".strip(), score


def onnx(model):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return f"onnxruntime {onnxruntime.__version__}", lambda inputs: session.run(None, inputs)[0]


def golden(text):
    for one in json.loads(text):
        inputs = {name: np.array(one[name], np.int32) for name in INPUTS}
        inputs["context"] = inputs["context"].reshape(1, -1)
        yield inputs, np.array(one["scores"], np.float32).reshape(len(inputs["ad"]), -1)


def scored(path):
    with np.load(path) as file:
        for place in range(int(file["requests"])):
            yield {name: file[f"{name}.{place}"] for name in INPUTS}, file[f"scores.{place}"]


def main(bundle, *files):
    with zipfile.ZipFile(bundle) as opened:
        sources = {"golden requests": list(golden(opened.read("golden.json")))}
        models = ((tflite, opened.read("model.tflite")), (onnx, opened.read("model.onnx")))
    for path in files:
        sources["requests that torch scored"] = list(scored(path))
    failed = ran = 0
    for load, model in models:
        try:
            name, score = load(model)
        except ImportError:
            continue
        ran += 1
        for what, asked in sources.items():
            worst, changed = 0.0, 0
            for inputs, expected in asked:
                scores = score(inputs)
                worst = max(worst, float(np.abs(scores - expected).max()))
                changed += winner(scores) != winner(expected)
            failed += not worst <= TOLERANCE or changed > MOST_CHANGED * len(asked)
            print(f"{name}: {len(asked):,} {what} within {worst:.1e}, {changed} decisions changed")
    return 0 if ran and not failed else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
