"""The index of an update folder: which version is the newest, and under which names its bytes lie.

Nobody signs it. It can make a device download the wrong thing or nothing, never believe anything: what counts is the
bundle's own signature, version and expiry.
"""

from collections.abc import Mapping
from typing import Annotated

import msgspec

from sottovoce.models.bundle import MOST_BYTES
from sottovoce.models.manifest import Digest, Name, Version
from sottovoce.privacy.errors import BundleError

INDEX = "latest.json"
MOST_INDEX = 64 * 1024
MOST_PATCHES = 64

Length = Annotated[int, msgspec.Meta(ge=1, le=MOST_BYTES)]


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file to download.

    Attributes:
        sha256: of its bytes; its name, too.
        length: in bytes.
    """

    sha256: Digest
    length: Length


class Index(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `latest.json` holds.

    Attributes:
        line: the line of models.
        version: the newest.
        sha256: of its bundle.
        length: of its bundle, in bytes.
        patches: from older bundles to it, by the older one's SHA-256.
    """

    line: Name
    version: Version
    sha256: Digest
    length: Length
    patches: Annotated[Mapping[Digest, Part], msgspec.Meta(max_length=MOST_PATCHES)]

    def canonical(self) -> bytes:
        """As JSON with sorted keys, and a line end for people."""
        return msgspec.json.format(msgspec.json.encode(self, order="sorted"), indent=1) + b"\n"


def load_index(data: bytes) -> Index:
    """The index of an update folder.

    Raises:
        BundleError: too long, not JSON, or unknown, missing or impossible values.
    """
    if len(data) > MOST_INDEX:
        raise BundleError(f"{INDEX} has more than {MOST_INDEX} bytes", "keep the bundle in use")
    try:
        return msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{INDEX} cannot be read: {error}", "keep the bundle in use") from error


def bundle_name(sha256: str) -> str:
    """Where a bundle lies in the folder."""
    return f"bundles/{sha256}.svb"


def patch_name(sha256: str) -> str:
    """Where a patch lies in the folder."""
    return f"patches/{sha256}.svd"


def key_set_name(version: int) -> str:
    """Where a key set lies in the folder: by its version, because a device asks for the one after its own."""
    return f"keys/{version}.json"


def version_tag(sha256: str) -> str:
    """The ETag under which a server may keep `latest.json`: the newest bundle's digest, in quotes.

    A device sends this and never a tag that a server chose, which could tell one phone from another.
    """
    return f'"{sha256}"'
