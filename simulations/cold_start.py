"""One process, one engine, from nothing to the first scores; `runtime_bench` starts it several times.

Python, numpy and this package's own modules are loaded before the clock starts: they are the same for every engine.
"""

import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from sottovoce.client import scorer as scorers
from sottovoce.models.request import random_requests
from sottovoce.models.schema import load_schema
from sottovoce.simulations.peak_rss import peak_rss_mib

ENGINES = ("litert", "onnxruntime", "torch")


class ColdStart(msgspec.Struct, frozen=True):
    """What one fresh process took.

    Attributes:
        ms: import of the engine, loading of the model, first scores of 16 candidates.
        peak_rss_mib: most memory of the whole process, Python and numpy included.
        before_mib: the same before the engine was imported.
    """

    ms: float
    peak_rss_mib: float
    before_mib: float


def cold_start(engine: str, folder: Path) -> ColdStart:
    """Load an engine that this process has not loaded yet, and score once.

    Args:
        engine: one of `ENGINES`.
        folder: holds `schema.json` and `model.tflite`, `model.onnx` or, for torch, `weights.npz`.
    """
    schema = load_schema((folder / "schema.json").read_bytes())
    one = random_requests(schema, 1, 16, np.random.default_rng(0))[0]
    before = peak_rss_mib()
    began = time.perf_counter_ns()
    if engine == "torch":
        import torch  # importing it is most of what is measured

        from sottovoce.simulations.torch_module import module_of

        torch.set_num_threads(1)
        with np.load(folder / "weights.npz") as weights, torch.inference_mode():
            module = module_of(dict(weights), schema)
            module(*(torch.from_numpy(array) for array in (one.context, one.events, one.outcomes, one.ad)))
    else:
        made: scorers.Scorer = (
            scorers.LiteRTScorer((folder / "model.tflite").read_bytes())
            if engine == "litert"
            else scorers.OnnxScorer((folder / "model.onnx").read_bytes())
        )
        made.scores(one.context, one.events, one.outcomes, one.ad)
    took = time.perf_counter_ns() - began
    return ColdStart(took / 1e6, peak_rss_mib(), before)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(cold_start(sys.argv[1], Path(sys.argv[2]))).decode())
