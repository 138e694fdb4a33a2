"""The bundle: the one file that ships, `.svb`.

It is a stored (uncompressed) zip that any tool opens, with one difference: for given contents there is exactly one byte
sequence. Names, order, times and attributes are fixed, so reading means: take the contents out, write them again, and
refuse the file unless both are equal. No field is left in which anything could hide or disagree.
"""

import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sottovoce.models.calibration import Calibration
from sottovoce.models.golden import Golden
from sottovoce.models.manifest import Manifest
from sottovoce.models.passport import PrivacyPassport
from sottovoce.models.schema import FeatureSchema
from sottovoce.privacy.errors import BundleError

CAPS: Mapping[str, int] = MappingProxyType(
    {
        "LICENSE.txt": 256 * 1024,
        "calibration.json": 64 * 1024,
        "golden.json": 256 * 1024,
        "manifest.json": 64 * 1024,
        "model.onnx": 16 * 1024 * 1024,
        "model.sig": 64 * 1024,
        "model.tflite": 16 * 1024 * 1024,
        "passport.json": 64 * 1024,
        "schema.json": 1024 * 1024,
    }
)
"""Every file of a bundle, in order, with the most bytes it may have."""

# Written by format version 2.0 on MS-DOS, no flags, stored, 1 January 1980.
_LOCAL = struct.Struct("<4s5H3L2H")
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_VERSION, _FLAGS, _STORED, _TIME, _DATE = 20, 0, 0, 0, 33
_SIZE_AT = 18  # of the compressed length in a local header

MOST_BYTES = sum(CAPS.values()) + sum(_LOCAL.size + _CENTRAL.size + 2 * len(name) for name in CAPS) + _END.size
"""A file longer than this is refused before it is looked at."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """The contents of a bundle that passed `sottovoce.models.trust.Trust.accept`.

    Attributes:
        manifest: what it claims.
        schema: how to encode its inputs.
        passport: what it may tell about people.
        golden: requests with known scores.
        calibration: what the model's files already do to its logits, and who paid for it.
        onnx: bytes of `model.onnx`.
        tflite: bytes of `model.tflite`.
        notice: text of `LICENSE.txt`.
    """

    manifest: Manifest
    schema: FeatureSchema
    passport: PrivacyPassport
    golden: tuple[Golden, ...]
    calibration: Calibration
    onnx: bytes
    tflite: bytes
    notice: str


def pack(files: Mapping[str, bytes]) -> bytes:
    """The bundle's bytes, the same on every machine.

    Args:
        files: exactly the names of `CAPS`.

    Raises:
        BundleError: a name is missing or unknown, or a file is longer than its cap.
    """
    if files.keys() != CAPS.keys():
        odd = sorted(files.keys() ^ CAPS.keys())
        raise BundleError(f"a bundle holds exactly {list(CAPS)}; missing or unknown: {odd}", "pass exactly these files")
    local, central = bytearray(), bytearray()
    for name, cap in CAPS.items():
        data, raw = files[name], name.encode()
        if len(data) > cap:
            raise BundleError(f"{name} has {len(data)} bytes, more than {cap}", "make it smaller")
        facts = (_VERSION, _FLAGS, _STORED, _TIME, _DATE, zlib.crc32(data), len(data), len(data), len(raw), 0)
        central += _CENTRAL.pack(b"PK\x01\x02", _VERSION, *facts, 0, 0, 0, 0, len(local)) + raw
        local += _LOCAL.pack(b"PK\x03\x04", *facts) + raw + data
    end = _END.pack(b"PK\x05\x06", 0, 0, len(CAPS), len(CAPS), len(central), len(local), 0)
    return bytes(local + central + end)


def unpack(data: bytes) -> Mapping[str, bytes]:
    """The files of a bundle, by name.

    Nothing is decompressed and no length is believed before it is compared with a cap, so a hostile file costs at most
    a copy of itself.

    Raises:
        BundleError: `data` is not exactly what `pack` writes.
    """
    if len(data) > MOST_BYTES:
        raise BundleError(f"bundle has {len(data)} bytes, more than {MOST_BYTES}", "keep the bundle in use")
    files, place = {}, 0
    for name, cap in CAPS.items():
        start = place + _LOCAL.size + len(name)
        if start > len(data):
            raise BundleError(f"bundle ends before {name}", "download it again")
        (length,) = struct.unpack_from("<L", data, place + _SIZE_AT)
        if length > cap or start + length > len(data):
            raise BundleError(
                f"{name} claims {length} bytes; it may have {cap} and the file must hold them", "download it again"
            )
        files[name] = bytes(data[start : start + length])
        place = start + length
    if pack(files) != data:
        raise BundleError("bundle is not in its one valid form: damaged, cut or altered", "download it again")
    return MappingProxyType(files)
