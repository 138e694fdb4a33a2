"""Patches: what changed between two bundles, a fraction of the new one's size.

A patch is a header and one zstd frame. The header names the old and the new bundle by SHA-256, so a patch fits exactly
one bundle and makes exactly one. The frame's content is the new bundle's files one after the other; zstd reads the old
bundle as what came before, and so finds in it whatever is still the same.

A training round moves most int8 codes a little or not at all, but hardly leaves a long run of them untouched, and runs
are what zstd finds. So model files may be stored as differences instead: new byte minus old byte, modulo 256. Which of
both is used is one byte of the header; whoever makes the patch tries both.

A patch proves nothing: the bundle it makes goes through the same rules as one that was downloaded whole.

    magic "SVD2" | kind, 1 byte | SHA-256 of old, 32 | SHA-256 of new, 32 | 9 lengths of files, 4 each | zstd frame

Integers are little endian.

Source: zstd's `--patch-from` (RFC 8878 with a raw-content dictionary).
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import Literal

import numpy as np
import numpy.typing as npt
import zstandard

from sottovoce.models.bundle import CAPS, MOST_BYTES, pack, unpack
from sottovoce.privacy.errors import BundleError, DigestError

Kind = Literal[0, 1]
"""How model files are stored: 0 as they are, 1 as differences."""

_MAGIC = b"SVD2"
_HEADER = struct.Struct(f"<4sB32s32s{len(CAPS)}L")
_MODELS = ("model.onnx", "model.tflite")
_LEVEL = 19
_WHOLE = "download the whole bundle"

MOST_PATCH = MOST_BYTES + 4096
"""A patch longer than this is refused before it is looked at."""


def make_patch(old: bytes, new: bytes) -> bytes:
    """What turns `old` into `new`; the same bytes each time with the same version of zstd.

    Args:
        old: a bundle, the bytes of an `.svb` file.
        new: another.

    Raises:
        BundleError: one of them is no bundle.
    """
    before, after = unpack(old), unpack(new)
    kinds: tuple[Kind, ...] = (0, 1)
    return min((_patch(kind, old, new, before, after) for kind in kinds), key=len)


def apply_patch(old: bytes, patch: bytes) -> bytes:
    """The new bundle, whose SHA-256 is the one that the patch names.

    Nothing is decompressed before its size was compared with the caps of a bundle.

    Args:
        old: the bundle that the patch starts from.
        patch: from `make_patch`, or from anybody.

    Raises:
        DigestError: the patch starts from another bundle, or does not make the one it names.
        BundleError: it is no patch, is damaged, or claims too much.
    """
    if not _HEADER.size <= len(patch) <= MOST_PATCH:
        raise BundleError(f"a patch has {_HEADER.size} to {MOST_PATCH} bytes, not {len(patch)}", _WHOLE)
    magic, kind, from_digest, to_digest, *lengths = _HEADER.unpack_from(patch)
    if magic != _MAGIC or kind not in (0, 1):
        raise BundleError("not a patch of a known kind", _WHOLE)
    if hashlib.sha256(old).digest() != from_digest:
        raise DigestError(f"the patch starts from bundle {from_digest.hex()[:12]}, which this is not", _WHOLE)
    sizes = dict(zip(CAPS, lengths, strict=True))
    for name, size in sizes.items():
        if size > CAPS[name]:
            raise BundleError(f"the patch claims {size} bytes of {name}, more than {CAPS[name]}", _WHOLE)
    before = unpack(old)
    content = _decompressed(patch[_HEADER.size :], old, sum(sizes.values()))
    files, place = {}, 0
    for name, size in sizes.items():
        part = content[place : place + size]
        files[name] = _plus(part, before[name]) if kind == 1 and name in _MODELS else part
        place += size
    new = pack(files)
    if hashlib.sha256(new).digest() != to_digest:
        raise DigestError("the patch does not make the bundle that it names", _WHOLE)
    return new


def _patch(kind: Kind, old: bytes, new: bytes, before: Mapping[str, bytes], after: Mapping[str, bytes]) -> bytes:
    content = b"".join(
        _minus(data, before[name]) if kind == 1 and name in _MODELS else data for name, data in after.items()
    )
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, source_size=len(content), dict_size=len(old), window_log=_window_log(len(old) + len(content))
    )
    compressor = zstandard.ZstdCompressor(dict_data=_dictionary(old), compression_params=parameters)
    digests = (hashlib.sha256(whole).digest() for whole in (old, new))
    return _HEADER.pack(_MAGIC, kind, *digests, *(len(after[name]) for name in CAPS)) + compressor.compress(content)


def _decompressed(frame: bytes, old: bytes, length: int) -> bytes:
    try:
        claimed = zstandard.get_frame_parameters(frame).content_size
        if claimed != length:
            raise BundleError(f"the patch holds {claimed} bytes instead of {length}", _WHOLE)
        content = zstandard.ZstdDecompressor(dict_data=_dictionary(old)).decompress(
            frame, max_output_size=length, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise BundleError(f"the patch cannot be decompressed: {error}", _WHOLE) from error
    if len(content) != length:
        raise BundleError(f"the patch holds {len(content)} bytes instead of {length}", _WHOLE)
    return content


def _dictionary(old: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _window_log(reach: int) -> int:
    """Far enough back to see all of the old bundle."""
    return min(max(reach.bit_length(), zstandard.WINDOWLOG_MIN), 27)


def _minus(new: bytes, old: bytes) -> bytes:
    return bytes(np.frombuffer(new, np.uint8) - _fitted(old, len(new)))


def _plus(difference: bytes, old: bytes) -> bytes:
    return bytes(np.frombuffer(difference, np.uint8) + _fitted(old, len(difference)))


def _fitted(old: bytes, length: int) -> npt.NDArray[np.uint8]:
    """`old` cut or filled with zeros to that many bytes."""
    return np.frombuffer(old[:length].ljust(length, b"\0"), np.uint8)
