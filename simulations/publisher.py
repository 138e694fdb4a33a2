"""Who deploys a model and who files its record: what no ledger knows."""

import msgspec

from sottovoce.simulations.registry import CuratorType

NOT_STATED = "not stated"


class Publisher(msgspec.Struct, frozen=True, kw_only=True):
    """What only people know.

    Attributes:
        name: of the deployer.
        kind: of organisation; the registry has no word for an unknown one.
        region: whose data, or whose law.
        authors: who files the record.
        published: YYYY-MM-DD; None for the day of the first release, when the model was made.
    """

    name: str = NOT_STATED
    kind: CuratorType | None = None
    region: str = NOT_STATED
    authors: tuple[str, ...] = (NOT_STATED,)
    published: str | None = None

    def unstated(self) -> list[str]:
        """Fields of the record for which nothing was given, each with what stands there instead."""
        return [
            told
            for told, missing in (
                ("data_curator_name: not stated", self.name == NOT_STATED),
                ("data_curator_type: the form has no word for unknown, Industry stands there", self.kind is None),
                ("data_product_region: not stated", self.region == NOT_STATED),
                ("publication_date: the day of the first release in the ledger", self.published is None),
                ("registry_authors: not stated", NOT_STATED in self.authors),
            )
            if missing
        ]
