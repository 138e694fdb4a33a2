"""The public data sets this version reads: names, folders, licences, whom to cite, and where the files come from.

A set is offered for download only when its official files are the files that the loader reads, and when the digest of
those very files is known.
"""

from dataclasses import dataclass

from sottovoce.privacy.errors import DataError


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file at its official address.

    Attributes:
        name: inside the set's folder.
        url: https address, pinned to a version.
        sha256: digest of the whole file, in hexadecimal.
    """

    name: str
    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """One public data set.

    Attributes:
        name: as typed on the command line.
        folder: inside the data folder.
        title: what it is, one line.
        licence: one line.
        citation: whom to thank, one line.
        note: what else a user of the data must know.
        files: what can be downloaded; empty where the official files have another layout than the loader reads.
        instead: where there is no download, how to come by the files.
    """

    name: str
    folder: str
    title: str
    licence: str
    citation: str
    note: str
    files: tuple[SourceFile, ...] = ()
    instead: str = ""


_TWEETINGS = "https://raw.githubusercontent.com/sidooms/MovieTweetings"

SOURCES = {
    source.name: source
    for source in (
        Source(
            name="kuairand",
            folder="kuairand_pure",
            title="KuaiRand-Pure: feed impressions of Kuaishou with long views",
            licence="CC BY-SA 4.0",
            citation="Gao et al., KuaiRand, CIKM 2022, doi:10.1145/3511808.3557624 (Kuaishou and USTC)",
            note=(
                "Attribution and share-alike apply to adapted data. A short-video feed, not display advertising; "
                "'click' is the long-view label."
            ),
            instead=(
                "the official archive (https://kuairand.com) holds daily logs, not the prepared train.parquet and "
                "valid.parquet read here; put the prepared folder kuairand_pure/ into the data folder"
            ),
        ),
        Source(
            name="movietweetings",
            folder="movietweetings_100k",
            title="MovieTweetings, 100K snapshot: film ratings from public tweets",
            licence="MIT, Copyright (c) 2013 Simon Dooms",
            citation="Dooms, De Pessemier, Martens: MovieTweetings, CrowdRec at RecSys 2013",
            note="A rating of 8 or more counts as a click.",
            files=(
                SourceFile(
                    "LICENSE",
                    f"{_TWEETINGS}/88317fa9e24e0479a450605d223591408797a8fa/LICENSE",
                    "ae985d01e5fe4f32d14937099a4e871dbdc2d93d8ccc2f7a141ec4ecddcab41c",
                ),
                SourceFile(
                    "movies.dat",
                    f"{_TWEETINGS}/4d8280a3f1ea83e3e23f13d1710d19f43564274f/snapshots/100K/movies.dat",
                    "e63fb84bc734e3c574f135634a40d3cbafab22b8f94f5fc0b80f80d1d2076efc",
                ),
                SourceFile(
                    "ratings.dat",
                    f"{_TWEETINGS}/4d8280a3f1ea83e3e23f13d1710d19f43564274f/snapshots/100K/ratings.dat",
                    "c0dd868c2632d10002ebc928ddc5345f33adeaa59eca52c2941c26a2c5e36fd6",
                ),
            ),
        ),
        Source(
            name="completejourney",
            folder="completejourney",
            title="The Complete Journey: grocery households, coupons sent and redeemed",
            licence="CC0, as declared by the R package completejourney that ships the data",
            citation="84.51 degrees, The Complete Journey; R package completejourney by B. Boehmke and S. Mould",
            note="The owner's own site asks for registration; keep the attribution.",
            instead=(
                "the official R package ships .rda files, not the derived coupon impressions read here; put the "
                "prepared folder completejourney/ into the data folder"
            ),
        ),
    )
}


def source(name: str) -> Source:
    """The data set of that name.

    Raises:
        DataError: no such set.
    """
    if name in SOURCES:
        return SOURCES[name]
    raise DataError(f"no data set {name!r}", f"choose one of {', '.join(SOURCES)}")
