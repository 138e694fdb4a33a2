"""Whether an ad is about what a page is about, and about what its reader keeps reading: two features of a candidate.

No catalogue holds them, because they belong to the pair of ad and request. The schema says which page categories are
about which value of an ad feature (`schema.Topic`, a public list), and both features become ordinary rows of the
embedding table, in the last columns of the model's `ad` input. A model thus learns what a match is worth, instead of a
weight set by hand, and a hundred thousand devices teach it with a handful of numbers, which little noise disturbs.

The pages that count are those of the device's own remembered impressions, the newest `WINDOW` before the one in
question; they stay on the device, as the rest of the history does.
"""

import numpy as np
import numpy.typing as npt

from sottovoce.models.schema import FeatureSchema, Ids

Numbers = npt.NDArray[np.int64]

WINDOW = 256
"""Newest pages that count."""

NONE = -1
"""Number of the topic of a page or ad that has none."""


class Topics:
    """The topics of a schema, numbered from 0 in the order of its pairs.

    Args:
        schema: with or without a topic.

    Attributes:
        count: how many there are; 0 without a topic.
        columns: how many match features there are: the last columns of the model's `ad` input.
        page_column: of the page feature in the model's `context` input; None without a topic.
    """

    def __init__(self, schema: FeatureSchema) -> None:
        self._matches = schema.matches
        self._offsets = [schema.offsets[feature.name] for feature in self._matches]
        self.columns = len(self._matches)
        self.count, self.page_column, self._ad_column = 0, None, 0
        self._of_row = np.full(schema.rows, NONE, np.int64)
        self._of_row_of_ad = self._of_row.copy()
        topic = schema.topic or None
        if topic is None:
            return
        context = [feature.name for feature in schema.context]
        ad = [feature.name for feature in schema.ad]
        self.page_column, self._ad_column = context.index(topic.page), ad.index(topic.ad)
        numbers: dict[int, int] = {}
        for page, value in topic.pairs:
            row = schema.row(schema.ad[self._ad_column], value)
            number = numbers.setdefault(row, len(numbers))
            self._of_row[schema.row(schema.context[self.page_column], page)] = number
            self._of_row_of_ad[row] = number
        # Padding has no topic, whatever a pair that cannot be encoded says.
        self._of_row[0] = self._of_row_of_ad[0] = NONE
        self.count = len(numbers)

    def of_pages(self, context: Ids) -> Numbers:
        """Topic of each page, shape (...,), from the model's context (..., context features)."""
        found: Numbers = self._of_row[context[..., self.page_column]]
        return found

    def of_rows(self, pages: Ids) -> Numbers:
        """Topic of each page, from the table rows of the page feature alone, in any shape."""
        found: Numbers = self._of_row[pages]
        return found

    def of_ads(self, ad: Ids) -> Numbers:
        """Topic of each ad, shape (...,), from the model's `ad` (..., ad features)."""
        found: Numbers = self._of_row_of_ad[ad[..., self._ad_column]]
        return found

    def match(self, page: Numbers, read: Numbers, ad: Numbers) -> Ids:
        """Table rows of the match features, shape (n, columns).

        `page_match` is 1 where page and ad have the same topic, 0 where they differ, and missing where either has none.
        `read_match` is the logarithm of how much more often the pages read were about the ad's topic than chance would
        have it, one page of every topic added: ln((n + 1) K / (N + K)). It is 0 for somebody who has read nothing, and
        missing for an ad without a topic.

        Args:
            page: (n,) or (1,) topic of the page of each request.
            read: (n, count) or (1, count) pages of each topic that its reader read before.
            ad: (n,) topic of each candidate.
        """
        known = ad != NONE
        rows = np.zeros((len(ad), self.columns), np.int32)
        for column, (feature, offset) in enumerate(zip(self._matches, self._offsets, strict=True)):
            if feature.source == "page_match":
                told = known & (page != NONE)
                bucket = (page == ad).astype(np.int64)
            else:
                told = known
                wide = np.broadcast_to(read, (len(ad), self.count))
                mine = wide[np.arange(len(ad)), np.maximum(ad, 0)]
                lift = np.log((mine + 1.0) * self.count / (wide.sum(1) + self.count))
                bucket = np.searchsorted(np.asarray(feature.boundaries), lift, side="right")
            rows[:, column] = np.where(told, offset + bucket, 0)
        return rows

    def unread(self, ad: Ids) -> Ids:
        """The same candidates for somebody who has read nothing; `page_match` stays."""
        return self._with(ad, "read_match", self.match(np.array([NONE]), self.nothing, self.of_ads(ad)))

    def off_page(self, ad: Ids) -> Ids:
        """The same candidates on a page that is not known; `read_match` stays."""
        return self._with(ad, "page_match", np.zeros((len(ad), self.columns), np.int32))

    def _with(self, ad: Ids, source: str, rows: Ids) -> Ids:
        changed = ad.copy()
        for column, feature in enumerate(self._matches, ad.shape[1] - self.columns):
            if feature.source == source:
                changed[:, column] = rows[:, column - ad.shape[1]]
        return changed

    @property
    def nothing(self) -> Numbers:
        """(1, count) zeros: no page read."""
        return np.zeros((1, self.count), np.int64)

    def read_before(self, pages: Numbers, offsets: Numbers) -> Numbers:
        """Pages of each topic among the newest `WINDOW` before each one, of the same device: (rows, count).

        Args:
            pages: (rows,) topics, device after device, oldest first.
            offsets: (devices + 1,) device i owns rows offsets[i] ... offsets[i + 1] - 1.
        """
        seen = np.zeros((len(pages) + 1, self.count), np.int64)
        np.cumsum(pages[:, None] == np.arange(self.count), axis=0, out=seen[1:])
        row = np.arange(len(pages))
        first = np.repeat(offsets[:-1], np.diff(offsets))
        return np.asarray(seen[row] - seen[np.maximum(first, row - WINDOW)])

    def match_rows(self, pages: Ids, offsets: Numbers, ad: Ids) -> Ids:
        """The match features of rows of devices, each with the pages of the rows before it: (rows, columns).

        Args:
            pages: (rows,) table rows of the page feature, device after device, oldest first.
            offsets: (devices + 1,), see `read_before`.
            ad: (rows, ad features).
        """
        if not self.count:
            return np.zeros((0, 0), np.int32)
        page = self.of_rows(pages)
        return self.match(page, self.read_before(page, offsets), self.of_ads(ad))
