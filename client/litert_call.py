"""One signature of a TFLite file, called without being prepared anew each time.

The runtime's own signature runner resizes every input, allocates all tensors and builds a dictionary on each call: 8 to
12 microseconds from Python, as long as the ranker takes for one candidate. An exported file's shapes never change, so
here the tensors are allocated on the first call and later calls only fill, run and read.
"""

from collections.abc import Callable
from typing import Any

from sottovoce.models.request import INPUTS, OUTPUT, Scores
from sottovoce.models.schema import Ids

Call = Callable[[Ids, Ids, Ids, Ids], Scores]
"""Scores of exactly as many candidates as the signature takes; arguments in the order of `INPUTS`."""


def signature_call(interpreter: Any, name: str) -> Call:
    """A call of one signature; each call returns an array of its own.

    The runtime offers this for a file's first signature only, so the runner's parts are used for the others too. Where
    a runtime's runner has no such parts, the runner itself is called: the same scores, more slowly.

    Args:
        interpreter: of ai-edge-litert or tflite-runtime; the caller keeps it alive as long as the call.
        name: of the signature.

    Raises:
        ValueError: the file has no such signature, or one with other inputs or outputs.
    """
    runner = interpreter.get_signature_runner(name)
    found = interpreter.get_signature_list()[name]
    if sorted(found["inputs"]) != sorted(INPUTS) or found["outputs"] != [OUTPUT]:
        raise ValueError(f"signature {name} has inputs {found['inputs']} and outputs {found['outputs']}")
    try:
        wrapper, graph = runner._interpreter_wrapper, runner._subgraph_index
        places = tuple(runner._inputs[port] for port in INPUTS)
        answer = dict(runner._outputs)[OUTPUT]
        fill, run, read, allocate = wrapper.SetTensor, wrapper.Invoke, wrapper.GetTensor, wrapper.AllocateTensors
    except (AttributeError, KeyError, TypeError):
        return _by_runner(runner)
    context_at, events_at, outcomes_at, ad_at = places
    allocated = False

    def call(context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        nonlocal allocated
        if not allocated:
            allocate(graph)
            allocated = True
        fill(context_at, context, graph)
        fill(events_at, events, graph)
        fill(outcomes_at, outcomes, graph)
        fill(ad_at, ad, graph)
        run(graph)
        scores: Scores = read(answer, graph)
        return scores

    return call


def _by_runner(runner: Any) -> Call:
    """The documented way."""

    def call(context: Ids, events: Ids, outcomes: Ids, ad: Ids) -> Scores:
        scores: Scores = runner(context=context, events=events, outcomes=outcomes, ad=ad)[OUTPUT]
        return scores

    return call
