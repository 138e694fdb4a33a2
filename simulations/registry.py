"""The form of the OpenDP Deployments Registry, as types: what a record of tier 3 must say, and in which order.

The registry keeps one YAML file for each deployment and checks it against a schema of its own. Its repository states no
licence, so no file of it is repeated here; names, kinds and permitted words follow the schema as it was read at commit
057e5d81. A record that passes here passes there. The reverse does not hold: the registry recommends the fields of tier
3, this form requires them.

Source: https://github.com/opendp/deployments-registry-data, schemas/deployments-schema.yaml.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Literal

import msgspec
import yaml

from sottovoce.privacy.errors import ConfigError

Words = Annotated[str, msgspec.Meta(min_length=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]

CuratorType = Literal["Government", "Industry", "Nonprofit"]
Status = Literal[
    "Converted",
    "Draft",
    "Pending",
    "Changes Required",
    "Approved",
    "Approved (Update Requested)",
    "Approved (Pending)",
]


class _Form(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the record; its fields stand in the order in which the registry wants them."""


class Curator(_Form, frozen=True, kw_only=True):
    """Who publishes the data product."""

    data_curator_name: Words
    data_curator_type: CuratorType


class Basic(_Form, frozen=True, kw_only=True):
    """The data product; `publication_date` as YYYY-MM-DD, of its publication or else of its making."""

    name: Words
    data_curators: Annotated[list[Curator], msgspec.Meta(min_length=1)]
    description: Words
    intended_use: Words
    data_product_type: Literal[
        "Summary statistics",
        "Machine learning model",
        "Dataset",
        "Synthetic data",
        "Interactive API",
        "SQL queries",
    ]
    data_product_region: Words
    publication_date: Annotated[str, msgspec.Meta(pattern=r"^\d{4}-\d{2}-\d{2}$")]

    def __post_init__(self) -> None:
        """Refuse a day that is not in the calendar."""
        try:
            date.fromisoformat(self.publication_date)
        except ValueError as error:
            raise ValueError(f"publication_date {self.publication_date}: {error}") from None


class DpVariant(_Form, frozen=True, kw_only=True):
    """Which kind of differential privacy, over which data."""

    variant_name: Literal["Pure DP", "Approximate DP", "Zero-concentrated DP", "Renyi DP", "Custom"]
    data_domain: Words
    unprotected_quantities: Words


class PrivacyParameters(_Form, frozen=True, kw_only=True):
    """Of approximate DP."""

    epsilon: Positive
    delta: Annotated[float, msgspec.Meta(gt=0, lt=1)]


class PrivacyLoss(_Form, frozen=True, kw_only=True):
    """How much is lost, by whom."""

    privacy_unit: Words
    privacy_unit_details: Words
    number_of_privacy_units: Annotated[int, msgspec.Meta(ge=1)]
    privacy_parameters: PrivacyParameters
    privacy_parameters_details: Words


class DeploymentModel(_Form, frozen=True, kw_only=True):
    """Who has to be trusted, and how often what is released."""

    model_name: Literal["Local", "Central", "Shuffle", "Federated", "Varies"]
    model_name_details: Words
    trust_assumptions: Words
    actors: Words
    release_type: Literal["One release", "Many releases"]
    release_type_details: Words
    data_source_type: Literal["Static", "Dynamic"]
    data_source_type_details: Words
    access_type: Literal["Interactive", "Non-interactive"]
    access_type_details: Words


class Implementation(_Form, frozen=True, kw_only=True):
    """How it was done and accounted."""

    preprocessing_and_hyperparameter_tuning: Words
    mechanisms: Words
    composition: Words
    post_processing: Words
    justification: Words
    utility: Words
    additional_information: Words


class Administrative(_Form, frozen=True, kw_only=True):
    """State of the record itself; `registry_authors` wrote it, which need not be the deployer."""

    status: Status
    registry_authors: Annotated[list[Words], msgspec.Meta(min_length=1)]
    tier: Literal[3]


class Deployment(_Form, frozen=True, kw_only=True):
    """Everything about the deployment."""

    basic: Basic
    dp_variant: DpVariant
    privacy_loss: PrivacyLoss
    deployment_model: DeploymentModel
    implementation: Implementation
    administrative: Administrative


class Record(_Form, frozen=True, kw_only=True):
    """One file of the registry; `url_slug` is part of its address."""

    url_slug: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    deployment: Deployment


def validate(record: object) -> Record:
    """`record`, as read from YAML, if it is a complete record of tier 3.

    Raises:
        ConfigError: names the first field that is missing, unknown or holds something else.
    """
    try:
        return msgspec.convert(record, Record)
    except msgspec.ValidationError as error:
        raise ConfigError(f"not a record of the registry: {error}", "correct the field it names") from error


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]
    """YAML as the registry wants it: text of several lines in literal blocks, nothing folded."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def to_yaml(record: Mapping[str, Any], unstated: Sequence[str] = ()) -> str:
    """A record as a file of the registry, to be written in UTF-8.

    Args:
        record: valid by `validate`.
        unstated: what somebody has to fill in before it is submitted, for the top of the file.
    """
    head = "# OpenDP Deployments Registry, tier 3. Written by sottovoce from the audit of a ledger.\n"
    if unstated:
        head += "# To be filled in before it is submitted:\n" + "".join(f"#   {told}\n" for told in unstated)
    written: str = yaml.dump(dict(record), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)
    return head + written
