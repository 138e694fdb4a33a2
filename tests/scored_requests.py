"""Write requests with the scores of a bundle's torch module: what other runtimes are compared with.

Usage: python tests/scored_requests.py BUNDLE OUT.npz [COUNT]
"""

import sys
from pathlib import Path

import numpy as np
import torch

from sottovoce.models.parity import module_scorer
from sottovoce.models.request import INPUTS, random_requests
from sottovoce.simulations.runtime_bench import from_bundle

SIZES = (1, 5, 16, 50, 64, 200)


def main(bundle, out, count="3000"):
    torch.set_num_threads(1)
    subject = from_bundle(Path(bundle).read_bytes(), bundle)
    score = module_scorer(subject.module)
    rng = np.random.default_rng(0)
    requests = [one for size in SIZES for one in random_requests(subject.schema, int(count) // len(SIZES), size, rng)]
    arrays = {"requests": np.int64(len(requests))}
    for place, request in enumerate(requests):
        arrays |= {f"{name}.{place}": getattr(request, name) for name in INPUTS}
        arrays[f"scores.{place}"] = score(request)
    np.savez(out, allow_pickle=False, **arrays)
    print(f"{subject.name}: {len(requests):,} requests scored by torch")


if __name__ == "__main__":
    main(*sys.argv[1:])
