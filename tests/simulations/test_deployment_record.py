import os
from pathlib import Path

import msgspec
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from sottovoce.privacy.errors import ConfigError
from sottovoce.simulations.audit_facts import About
from sottovoce.simulations.deployment_record import deployment_record, unregistrable
from sottovoce.simulations.publisher import NOT_STATED, Publisher
from sottovoce.simulations.registry import Record, to_yaml, validate

KNOWN = Publisher(
    name="Example Organisation", kind="Nonprofit", region="Nowhere", authors=("A. Author",), published="2026-12-01"
)


def leaves(value, path=()):
    """Paths to everything in a record that is not itself a table."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from leaves(part, (*path, key))
    else:
        yield path


def tables(value, path=()):
    """Paths to every table of a record, itself included."""
    if isinstance(value, dict):
        yield path
        for key, part in value.items():
            yield from tables(part, (*path, key))


def altered(record, path, change):
    """A deep copy in which `change` was applied to the table that holds the last key of `path`."""
    copy = msgspec.json.decode(msgspec.json.encode(record))
    table = copy
    for key in path[:-1]:
        table = table[key]
    change(table, path[-1])
    return copy


@pytest.fixture
def record(audited, about):
    return deployment_record(audited, about, KNOWN)


def test_the_record_is_valid_and_survives_yaml(record):
    written = to_yaml(record)
    read = yaml.safe_load(written)
    assert read == record
    assert isinstance(validate(read), Record)


def test_a_record_of_an_unknown_deployer_is_valid_and_says_what_is_not_stated(audited, about):
    made = deployment_record(audited, about)
    validate(yaml.safe_load(to_yaml(made)))
    basic = made["deployment"]["basic"]
    assert basic["data_curators"][0]["data_curator_name"] == NOT_STATED
    assert basic["data_product_region"] == NOT_STATED
    assert basic["publication_date"] == "2026-11-24"
    unstated = Publisher().unstated()
    assert len(unstated) == 5
    text = to_yaml(made, unstated)
    for field in unstated:
        assert f"#   {field}\n" in text
        assert field in made["deployment"]["implementation"]["additional_information"]


def test_a_known_deployer_leaves_nothing_unstated(record):
    assert KNOWN.unstated() == []
    assert NOT_STATED not in to_yaml(record, KNOWN.unstated())
    assert record["url_slug"] == "ranking-model-market-10-example-organisation-2026"


def test_epsilon_of_the_record_is_the_headline_also_where_it_fell_back(audited, about):
    fell = msgspec.structs.replace(
        audited, observer="knows_cohorts", epsilon=audited.epsilon_known_cohort, fallback=["a reason"]
    )
    for report in (audited, fell):
        loss = deployment_record(report, about)["deployment"]["privacy_loss"]
        assert loss["privacy_parameters"] == {"epsilon": report.epsilon, "delta": report.delta}
        assert loss["number_of_privacy_units"] == report.population
    assert "a reason" in loss["privacy_parameters_details"]


def test_every_field_is_required(record):
    for path in leaves(record):
        with pytest.raises(ConfigError, match=path[-1]):
            validate(altered(record, path, lambda table, key: table.pop(key)))


@pytest.mark.parametrize("wrong", [None, [], {}, "", True, -1])
def test_a_field_of_another_kind_is_refused(record, wrong):
    for path in leaves(record):
        with pytest.raises(ConfigError, match=path[-1]):
            validate(altered(record, path, lambda table, key: table.__setitem__(key, wrong)))


def test_an_unknown_field_is_refused_in_every_table(record):
    for path in tables(record):
        with pytest.raises(ConfigError, match="surprise"):
            validate(altered(record, (*path, "surprise"), lambda table, key: table.__setitem__(key, "x")))


@pytest.mark.parametrize(
    ("field", "wrong"),
    [
        (("basic", "publication_date"), "1/1/2026"),
        (("basic", "publication_date"), "2026-02-30"),
        (("basic", "data_product_type"), "Model"),
        (("dp_variant", "variant_name"), "approximate DP"),
        (("deployment_model", "release_type"), "Continual"),
        (("deployment_model", "data_source_type"), "dynamic"),
        (("privacy_loss", "privacy_parameters", "epsilon"), "4"),
        (("privacy_loss", "privacy_parameters", "delta"), 1.0),
        (("administrative", "tier"), 2),
        (("administrative", "status"), "Done"),
        (("administrative", "registry_authors"), []),
        (("basic", "data_curators"), []),
        (("basic", "data_curators"), [{"data_curator_name": "x", "data_curator_type": "Company"}]),
        (("basic", "data_curators"), [{"data_curator_name": "x"}]),
    ],
)
def test_a_word_the_registry_does_not_know_is_refused(record, field, wrong):
    with pytest.raises(ConfigError, match=field[-1]):
        validate(altered(record, ("deployment", *field), lambda table, key: table.__setitem__(key, wrong)))


def test_text_of_several_lines_is_written_in_literal_blocks_and_nothing_is_folded(record):
    styles = {token.style for token in yaml.scan(to_yaml(record)) if isinstance(token, yaml.ScalarToken)}
    assert styles <= {None, "'", '"', "|"}
    assert "|" in styles


def test_the_fields_stand_in_the_order_of_the_form(record):
    def order(form, table):
        fields = list(form.__struct_fields__)
        assert list(table) == fields
        for field in msgspec.structs.fields(form):
            if isinstance(field.type, type) and issubclass(field.type, msgspec.Struct):
                order(field.type, table[field.name])

    order(Record, yaml.safe_load(to_yaml(record)))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"ledger_ok": False}, "does not hold"),
        ({"guarantee": False}, "no guarantee"),
        ({"epsilon": None, "private": False}, "no guarantee"),
        ({"rounds": 0}, "nothing has been released"),
        ({"period": []}, "nothing has been released"),
        ({"delta": None}, "nothing has been released"),
        ({"unit": "record"}, "single records"),
    ],
)
def test_what_guarantees_nothing_is_never_registered(audited, about, change, why):
    report = msgspec.structs.replace(audited, **change)
    assert why in unregistrable(report)
    with pytest.raises(ConfigError, match=why):
        deployment_record(report, about)


@pytest.mark.parametrize(
    "change", [{"published": "tomorrow"}, {"published": "20261201"}, {"name": ""}, {"authors": ()}, {"region": ""}]
)
def test_a_deployer_the_registry_would_refuse_is_refused_here(audited, about, change):
    with pytest.raises(ConfigError) as caught:
        deployment_record(audited, about, msgspec.structs.replace(KNOWN, **change))
    assert "\n" not in caught.value.what


@given(st.text(st.characters(), max_size=30))
@example("a\x85b\u2028c\ufeff\ud800\u202e\x00- d: |")
def test_any_name_makes_a_record_that_yaml_reads_back(string):
    about = About(run_name=string, data_name=string, licence=string, commands={"replay": string})
    made = deployment_record(
        SAMPLE.report, about, msgspec.structs.replace(KNOWN, name=f"x{string}", region=f"x{string}")
    )
    assert yaml.safe_load(to_yaml(made).encode()) == made


class SAMPLE:
    report = None


@pytest.fixture(autouse=True)
def keep_sample(audited):
    """Hypothesis does not mix with fixtures of a function; the value never changes."""
    SAMPLE.report = audited


def test_the_registrys_own_schema_accepts_the_record_and_refuses_a_damaged_one(audited, about, record):
    """The schema has no licence and so is not here: name a copy of it in SOTTOVOCE_REGISTRY_SCHEMA."""
    path = os.environ.get("SOTTOVOCE_REGISTRY_SCHEMA")
    if path is None:
        pytest.skip("SOTTOVOCE_REGISTRY_SCHEMA names no copy of the registry's deployments-schema.yaml")
    jsonschema = pytest.importorskip("jsonschema")
    schema = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    check = jsonschema.Draft7Validator(schema, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    for made in (record, deployment_record(audited, about)):
        assert not list(check.iter_errors(yaml.safe_load(to_yaml(made))))
    for path in (("deployment", "basic", "intended_use"), ("deployment", "administrative", "tier"), ("url_slug",)):
        assert list(check.iter_errors(altered(record, path, lambda table, key: table.pop(key))))
