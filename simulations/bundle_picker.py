"""From a signed bundle to a picker: believed first, as a device would, then loaded."""

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sottovoce.client.catalogue import Catalogue
from sottovoce.client.picker import Picker
from sottovoce.client.policy import PickerPolicy
from sottovoce.client.runtimes import required
from sottovoce.client.scorer import LiteRTScorer, OnnxScorer, Scorer, request_scorer
from sottovoce.models.bundle import Bundle
from sottovoce.models.quiet import quiet_stderr
from sottovoce.models.trust import Trust, check_golden


@dataclass(frozen=True)
class BundlePicker:
    """What a believed bundle picks with.

    Attributes:
        bundle: as it was read.
        scorer: its model.
        digest: SHA-256 of the file, which decisions call the model by.
        policy: of the app.
    """

    bundle: Bundle
    scorer: Scorer
    digest: str
    policy: PickerPolicy

    def over(self, catalogue: Catalogue) -> Picker:
        """The picker for a catalogue."""
        bundle = self.bundle
        return Picker(
            bundle.schema, self.scorer, catalogue, bundle.manifest.personal_variance, self.policy, self.digest
        )


def believed(
    data: bytes, trust: Trust, now: datetime, runtime: str, policy: PickerPolicy | None = None
) -> BundlePicker:
    """The bundle in `data`, once its signature, digests, version, expiry, schema and golden requests hold.

    Args:
        data: of the file.
        trust: keys, and the version accepted before.
        now: for its expiry.
        runtime: `litert` or `onnxruntime`.
        policy: of the app.

    Raises:
        SottovoceError: it cannot be believed, or the runtime is not installed.
    """
    _, bundle = trust.accept(data, now=now, runtimes=required(runtime))
    with quiet_stderr():  # LiteRT announces itself when a model is first run
        scorer: Scorer = LiteRTScorer(bundle.tflite) if runtime == "litert" else OnnxScorer(bundle.onnx)
        check_golden(bundle, request_scorer(scorer))
    return BundlePicker(bundle, scorer, hashlib.sha256(data).hexdigest(), policy or PickerPolicy())
