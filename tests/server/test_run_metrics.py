import datetime
import math
import re
from pathlib import Path

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as strict
from prometheus_client.parser import text_string_to_metric_families

from sottovoce.server.ledger_look import LedgerLook
from sottovoce.server.observer import OUTCOMES, PHASES, Traffic
from sottovoce.server.run_metrics import RunMetrics, Watched, expires, noise_holds

RUNBOOK = (Path(__file__).parents[2] / "docs" / "runbook.md").read_text(encoding="utf-8")

GOOD = LedgerLook(rows=9, last_row_s=990.0, outsider=3.9, knows_cohorts=13.0, budget=4.0)


def certificate(folder, name="tls.pem", days=3):
    key, who = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    made = x509.CertificateBuilder().subject_name(who).issuer_name(who).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(days=days))
    file = folder / name
    file.write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    return file


class Page:
    """Samples of an exposition, as the library's own parser reads them."""

    def __init__(self, text):
        self.samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    def __getitem__(self, key):
        name, labels = key if isinstance(key, tuple) else (key, {})
        (found,) = [one.value for one in self.samples if one.name == name and one.labels == labels]
        return found

    def names(self):
        return {one.name for one in self.samples}


def metrics(folder, look=GOOD, certificates=(), wall=1000.0):
    return RunMetrics(
        Watched(
            ledger=lambda: look,
            folder=folder,
            rounds=60,
            overdue_s=300.0,
            certificates=certificates,
            wall=lambda: wall,
        )
    )


def pages(told):
    return [Page(generate_latest(registry).decode()) for registry in (told.open, told.restricted)]


def a_round(told, replies=2, ask=0.5):
    told.enrolled(3, 8, 1)
    told.opened(1)
    traffic = Traffic(sent=100 * replies, received=50 * replies)
    traffic.replies.update({"used": replies, "malformed": 1})
    told.answered(1, traffic)
    told.released(1, dict.fromkeys(PHASES, 0.25) | {"ask": ask}, 7)
    told.skipped(2, "budget")
    return told


def test_what_happened_is_what_the_pages_say(tmp_path):
    seen, restricted = pages(a_round(metrics(tmp_path, certificates=[certificate(tmp_path)])))
    assert seen["sottovoce_rounds_total", {"outcome": "released"}] == 1
    assert seen["sottovoce_rounds_total", {"outcome": "skipped"}] == 1
    assert seen["sottovoce_round"] == 1
    assert seen["sottovoce_last_round_timestamp_seconds"] == 1000
    assert seen["sottovoce_devices_enrolled"] == 8
    assert seen["sottovoce_nodes_left_out"] == 1
    assert seen["sottovoce_epsilon_spent", {"observer": "knows_cohorts"}] == 13
    assert seen["sottovoce_epsilon_budget"] == 4
    assert seen["sottovoce_ledger_rows"] == 9
    assert seen["sottovoce_phase_seconds_total", {"phase": "keep"}] == 0.25
    assert seen["sottovoce_noise_self_check_ok"] == 1
    assert seen["sottovoce_certificate_expires_timestamp_seconds", {"certificate": "tls.pem"}] == 1893715200.0
    assert restricted["sottovoce_restricted_replies_total", {"outcome": "used"}] == 2
    assert restricted["sottovoce_restricted_bytes_total", {"direction": "sent"}] == 200
    assert restricted["sottovoce_restricted_phase_seconds_total", {"phase": "ask"}] == 0.5


def test_two_cohorts_of_different_size_leave_the_same_open_page(tmp_path):
    def text(told, registry):
        shown = generate_latest(getattr(told, registry)).decode()
        return re.sub(r"(?m)^sottovoce_folder_free_bytes .*|.*_created.*", "", shown)

    small, large = a_round(metrics(tmp_path)), a_round(metrics(tmp_path), replies=900, ask=70.0)
    assert text(small, "open") == text(large, "open")
    assert text(small, "restricted") != text(large, "restricted")


def test_names_say_which_page_they_are_on(tmp_path):
    seen, restricted = pages(a_round(metrics(tmp_path)))
    assert all(name.startswith("sottovoce_restricted_") for name in restricted.names())
    assert not any(name.startswith("sottovoce_restricted_") for name in seen.names())
    outcomes = {one.labels["outcome"] for one in restricted.samples if one.name.endswith("replies_total")}
    assert outcomes == set(OUTCOMES)


def test_both_formats_are_read_by_the_librarys_own_parsers(tmp_path):
    told = a_round(metrics(tmp_path))
    for registry in (told.open, told.restricted):
        assert list(text_string_to_metric_families(generate_latest(registry).decode()))
        assert list(strict(openmetrics(registry).decode()))


def test_a_ledger_that_does_not_hold_gives_no_epsilon_at_all(tmp_path):
    told = metrics(tmp_path, LedgerLook(problem="row 3 was changed"))
    assert "sottovoce_ledger_ok" not in pages(told)[0].names()  # the run has not begun: there may be none yet
    told.enrolled(3, 8, 0)
    seen, _ = pages(told)
    assert seen["sottovoce_ledger_ok"] == 0
    assert not {"sottovoce_epsilon_spent", "sottovoce_ledger_rows"} & seen.names()


def test_a_folder_that_is_gone_leaves_its_figures_out_and_the_page_whole(tmp_path):
    seen, _ = pages(metrics(tmp_path / "gone"))
    assert "sottovoce_folder_free_bytes" not in seen.names()
    assert math.isnan(seen["sottovoce_last_round_timestamp_seconds"])


def test_the_noise_check_sees_five_per_cent_less_or_more_noise_and_lets_sound_noise_pass():
    draws = np.random.default_rng(1).normal
    assert all(noise_holds() for _ in range(5))
    assert noise_holds(lambda count: draws(size=count))
    for wrong in (0.95, 1.05):
        assert not noise_holds(lambda count, wrong=wrong: draws(size=count) * wrong)


def test_a_certificate_that_cannot_be_read_has_no_expiry(tmp_path):
    (tmp_path / "none.pem").write_text("no certificate")
    assert expires(tmp_path / "none.pem") is None
    assert expires(tmp_path / "missing.pem") is None
    chain = certificate(tmp_path, "a.pem", 30).read_bytes() + certificate(tmp_path, "b.pem", 3).read_bytes()
    (tmp_path / "chain.pem").write_bytes(chain)
    assert expires(tmp_path / "chain.pem") == 1893715200.0


def expressions():
    found = [one.strip() for one in re.findall(r"```promql\n(.*?)```", RUNBOOK, re.S)]
    assert len(found) == 11
    return found


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_an_alarm_names_exists_with_the_labels_it_uses(tmp_path, expression):
    seen, restricted = pages(a_round(metrics(tmp_path, certificates=[certificate(tmp_path)])))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "round-000001.safetensors").touch()
    seen, restricted = pages(a_round(metrics(tmp_path, certificates=[certificate(tmp_path)])))
    named = re.findall(r"(sottovoce_\w+)(?:\{(\w+)=\"(\w+)\"\})?", expression)
    assert named
    for name, label, value in named:
        page = restricted if "restricted" in name else seen
        fitting = [one for one in page.samples if one.name == name and (not label or one.labels.get(label) == value)]
        assert fitting, name
        if not label and "certificate" not in name:
            assert fitting[0].labels == {}, f"{name} has labels that the alarm does not name"


ALARMS = {
    "ledger": (LedgerLook(problem="row 3"), lambda page: page["sottovoce_ledger_ok"] == 0),
    "budget": (
        GOOD,
        lambda page: (
            page["sottovoce_epsilon_spent", {"observer": "outsider"}] / page["sottovoce_epsilon_budget"] > 0.95
            and page["sottovoce_round"] < page["sottovoce_rounds_planned"]
        ),
    ),
    "accountants": (
        LedgerLook(rows=1, outsider=1.0, knows_cohorts=1.0, budget=4.0, agree=False),
        lambda page: page["sottovoce_epsilon_cross_check_ok"] == 0,
    ),
    "clock": (
        LedgerLook(rows=1, last_row_s=2000.0, outsider=1.0, knows_cohorts=1.0, budget=4.0),
        lambda page: (
            page["sottovoce_ledger_last_row_timestamp_seconds"] - page["sottovoce_clock_timestamp_seconds"] > 60
        ),
    ),
}


@pytest.mark.parametrize("name", ALARMS)
def test_an_alarm_is_raised_by_its_cause_and_by_nothing_else(tmp_path, name):
    calm = LedgerLook(rows=9, last_row_s=990.0, outsider=1.0, knows_cohorts=2.0, budget=4.0)
    look, rings = ALARMS[name]
    assert rings(pages(a_round(metrics(tmp_path, look)))[0])
    assert not rings(pages(a_round(metrics(tmp_path, calm)))[0])
