import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.privacy.errors import SottovoceError
from sottovoce.privacy.realised import Observed
from sottovoce.privacy.spending import Sensitivity, Spend
from sottovoce.simulations.audit_claim import meaning
from sottovoce.simulations.audit_documents import write_documents
from sottovoce.simulations.audit_facts import About, SelfTest, audit_json
from sottovoce.simulations.audit_page import audit_page
from sottovoce.simulations.hazards import HAZARDS
from sottovoce.simulations.markup import at_most
from sottovoce.simulations.page import ALARM

ROOT = Path(__file__).resolve().parents[2]

EMPIRICAL = {
    "checks": [
        {
            "name": "noise variance",
            "passed": True,
            "statistic": 9987.25,
            "expected": "as planned",
            "measured": 0.9612,
            "p_value": 0.5311,
            "detail": "chi-square",
            "power": "sees 3 % less noise",
            "alarm": 0.01,
        },
        {"name": "lag correlation", "passed": True, "statistic": 1.5, "expected": 0.0, "measured": 0.02, "detail": ""},
    ],
    "bounds": {
        "final model only": {"lower_bound": 0.04, "claimed": 3.9974, "null_bound": 0.01, "method": "f-DP one-run"},
        "cohorts known": {"lower_bound": 3.41, "claimed": 23.42, "null_bound": 0.02, "method": "one-run", "x": [1]},
    },
    "verdict": "no violation detected at this power",
    "m": 1024,
    "rounds": 10,
    "alpha": 0.05,
    "a field of a later version": {"deep": [1, 2]},
}
SELF_TEST = {"planted_bugs": 5, "caught": 5, "clean_runs": 20, "false_alarms": 0, "details": {"half the noise": True}}

HOSTILE = [
    '<script src="http://evil.example/x.js"></script>',
    '"><img src=http://evil.example onerror=alert(1)>',
    "</style></title></pre><iframe src='//evil.example'>",
    "' onload='alert(1)",
    "]]>--><!--",
    "epsilon \u202e000.1\u202c\x00\x1b[31m\ud800",
]


class Page(HTMLParser):
    """Tags, attributes and text of a page; refuses tags that are not closed in order."""

    def __init__(self, markup):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def words(self):
        return " ".join(self.texts)


def changed(value, **fields):
    return msgspec.structs.replace(value, **fields)


def numbers(value):
    """Every number in a value made of built-in types."""
    if isinstance(value, bool):
        return
    if isinstance(value, int | float):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from numbers(part)


def shows(words, value):
    """Whether a number is on the page: rounded up, as it is, in thousands, or to a few digits."""
    shown = {f"{value:,}", f"{value:g}", f"{value:.4g}", f"{value:,.2f}", f"{value:,.4f}", f"{value:.3g}"}
    shown |= {f"{value:,.0f}"} if abs(value) >= 1000 else set()
    return bool(({at_most(float(value))} | shown) & set(re.findall(r"[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?:e-?\d+)?", words)))


def test_every_figure_of_the_audit_appears(audited, about):
    words = Page(audit_page(audited, EMPIRICAL, SELF_TEST, about)).words
    whole = json.loads(audit_json(audited, EMPIRICAL, SELF_TEST, about))
    for place in ("alarm", "x", "a field of a later version"):
        whole["empirical"].pop(place, None)
    del whole["empirical"]["checks"][0]["alarm"], whole["empirical"]["bounds"]["cohorts known"]["x"]
    missing = [value for value in numbers(whole) if not shows(words, value)]
    assert not missing


def test_the_search_for_figures_misses_one_that_is_not_there(audited, about):
    words = Page(audit_page(audited, EMPIRICAL, SELF_TEST, about)).words
    assert not shows(words, 3.1234)
    assert not shows(words, 987_654)


def test_every_text_of_the_audit_appears(audited, about):
    report = changed(audited, findings=["a finding"], realised=[changed(audited.realised[0], alarms=["an alarm"])])
    words = Page(audit_page(report, EMPIRICAL, SELF_TEST, about)).words
    for text in (
        *report.claims,
        *report.assumptions,
        *report.findings,
        "an alarm",
        report.head.hash,
        "quality team",
        *(spend.mechanism for spend in report.releases),
        *(case.assumption for case in report.sensitivity),
        *(hazard.mistake for hazard in HAZARDS),
        *about.commands.values(),
        about.licence,
        EMPIRICAL["verdict"],
        "sees 3 % less noise",
    ):
        assert text in words


def test_findings_stand_before_what_is_claimed(audited, about):
    page = audit_page(changed(audited, findings=["row 3 is odd"]), None, None, about)
    assert page.index("row 3 is odd") < page.index("What is claimed")
    assert 'class="why"' in page


def test_no_finding_leaves_no_red_box(audited, about):
    assert '<section class="why">' not in audit_page(audited, None, None, about)


@pytest.mark.parametrize("count", [0, 1, 40, 200])
def test_what_is_missing_or_infinite_never_shows_as_a_program_prints_it(audited, about, count):
    bare = changed(
        audited,
        epsilon=None,
        private=False,
        guarantee=False,
        epsilon_outsider=None,
        epsilon_known_cohort=None,
        rho=None,
        noise="none",
        budget_epsilon=None,
        cross_check={"pld": None, "rdp": math.inf, "opacus_prv": math.nan},
        releases=[changed(spend, epsilon_alone=None, max_participations=None) for spend in audited.releases[:count]],
        curve=[changed(audited.curve[0], releases=n, epsilon_outsider=None) for n in range(count)],
        by_delta=[changed(point, epsilon_outsider=math.inf) for point in audited.by_delta[:count]],
        sensitivity=[Sensitivity(assumption="a", epsilon=None)] * count,
        realised=audited.realised[:count],
        period=audited.period[:count],
        population=None,
        claims=[],
    )
    empirical = {
        "checks": [{"name": "c", "passed": False, "statistic": math.nan, "measured": math.inf, "expected": None}] * 2,
        "bounds": [{"observer": "o", "lower_bound": math.nan, "claimed": math.inf, "null_bound": None}],
        "m": None,
    }
    for report in (bare, changed(bare, delta=None, rounds=0, purposes={}, entries={})):
        words = Page(audit_page(report, empirical, {"details": [None, {"a": None, "b": math.nan}]}, about)).words
        assert not re.search(r"\b(None|nan|inf|NaN|Infinity|True|False|\[\]|\{\})\b", words)


def test_a_broken_ledger_shows_no_epsilon_whatever_the_report_holds(audited, about):
    broken = changed(audited, ledger_ok=False, guarantee=False, findings=["row 7: hash does not match"])
    page = audit_page(broken, EMPIRICAL, SELF_TEST, about)
    words = Page(page).words
    for figure in (3.99736486, 23.41966905, 4.46731, 6.09061, 3.71119, 0.51234, 8.65651, 4.00783714, 4.5):
        assert at_most(figure) not in page
        assert f"{figure:.2f}" not in words
    assert "BROKEN" in words
    assert "row 7: hash does not match" in words
    assert not re.search(r"\depsilon|epsilon \d", words)


def test_a_run_without_guarantee_carries_the_alarm_and_speaks_of_what_would_be(audited, about):
    page = audit_page(changed(audited, guarantee=False, noise="seeded"), None, None, about)
    assert page.count(ALARM) >= 4
    assert "<h2>What is claimed</h2>" not in page
    assert "would be at most" in page
    assert ALARM not in audit_page(audited, None, None, about)


def test_a_headline_that_fell_back_says_against_whom_and_why(audited, about):
    report = changed(
        audited,
        observer="knows_cohorts",
        epsilon=audited.epsilon_known_cohort,
        fallback=["cohorts were drawn from a seed"],
    )
    page = audit_page(report, None, None, about)
    first = page.split('<p class="claim">')[1].split("</p>")[0]
    assert "also knows who took part" in first
    assert "23.4197" in first
    assert "cohorts were drawn from a seed" in page
    assert len(page.split('<p class="claim">')) == 2


def test_epsilon_is_never_shown_smaller_than_it_is(audited, about):
    words = Page(audit_page(changed(audited, epsilon=3.99730001), None, None, about)).words
    assert "3.9974" in words
    assert "3.9973" not in words


@given(st.floats(0, 700))
def test_an_upper_bound_for_reading_is_an_upper_bound(value):
    assert float(at_most(value).replace(",", "")) >= value - 1e-9 * max(1.0, value)


@pytest.mark.parametrize(
    ("epsilon", "told"),
    [
        (0.0, "at most 1.00 times"),
        (math.log(3), "at most 3.00 times"),
        (4.0, "at most 54.6 times"),
        (4.0, "at most 36 % sure"),
        (23.4, "more than a million"),
        (23.4, "all but certain"),
        (900.0, "all but certain"),
    ],
)
def test_the_meaning_for_a_person_follows_from_epsilon(audited, epsilon, told):
    words = meaning(audited, epsilon, 1e-4)
    assert told in words
    assert "one chance in 10,000" in words
    assert words.count(". ") + 1 == 2


def test_what_was_not_run_is_said_with_the_command_that_runs_it(audited, about):
    page = audit_page(audited, None, None, about)
    assert "were not run" in page
    assert "sottovoce audit market-10 --canaries 1000" in page
    assert "not tried on planted bugs" in page
    assert "sottovoce audit --self-test" in page


def test_a_lower_bound_above_the_claim_is_a_violation(audited, about):
    bad = {**EMPIRICAL, "bounds": [{"observer": "outsider", "lower_bound": 4.01, "claimed": 4.0}]}
    assert "VIOLATION" in audit_page(audited, bad, None, about)
    good = {**EMPIRICAL, "bounds": [{"observer": "outsider", "lower_bound": 3.99, "claimed": 4.0}]}
    assert "VIOLATION" not in audit_page(audited, good, None, about)


def test_a_self_test_that_caught_nothing_or_ran_nothing_fails(audited, about):
    for bad in (SelfTest(planted_bugs=5, caught=4, clean_runs=20), SelfTest(), SelfTest(clean_runs=20, false_alarms=1)):
        assert "✗ FAILED" in audit_page(audited, None, bad, about)
    assert "✗ FAILED" not in audit_page(audited, None, SELF_TEST, about)


def test_an_accountant_that_contradicts_the_claim_is_marked(audited, about):
    low = changed(audited, cross_check={"pld": 4.0, "rdp": 3.9})
    high = changed(audited, cross_check={"pld": 4.0, "opacus_prv": 4.03})
    for report in (low, high):
        assert '<td class="prose">NO</td>' in audit_page(report, None, None, about)
    assert ">NO<" not in audit_page(audited, None, None, about)


def test_an_empirical_part_of_another_kind_is_refused_in_one_line(audited, about):
    with pytest.raises(SottovoceError) as caught:
        audit_page(audited, {"checks": "all fine"}, None, about)
    assert "\n" not in caught.value.what


def test_the_page_never_claims_to_have_verified_anything(audited, about):
    assert "verif" not in audit_page(audited, EMPIRICAL, SELF_TEST, about).lower()


@pytest.mark.parametrize("string", HOSTILE)
def test_hostile_text_never_becomes_markup(audited, about, string):
    plain = Page(audit_page(audited, EMPIRICAL, SELF_TEST, about))
    report = changed(
        audited,
        findings=[string],
        claims=[string],
        assumptions=[string],
        fallback=[string],
        purposes={string: 10},
        cross_check={string: 1.0},
        period=[string, string],
        releases=[
            Spend(
                purpose=string,
                querier=string,
                mechanism=string,
                plan_hash=string,
                count=1,
                epsilon_alone=1.0,
                max_participations=1,
            )
        ],
        sensitivity=[Sensitivity(assumption=string, epsilon=1.0)],
        realised=[changed(audited.realised[0], plan_hash=string, alarms=[string])],
        head=audited.head._replace(hash=string),
    )
    strange = About(
        run_name=string,
        data_name=string,
        licence=string,
        software_versions={string: string},
        commands={string: string, "empirical": string},
    )
    check = {"name": string, "passed": False, "expected": string, "measured": string, "detail": string, "power": string}
    empirical = {"checks": [check], "bounds": {string: {"method": string, "power": string}}, "verdict": string}
    page = audit_page(report, empirical, {"details": {string: [string]}}, strange)
    parsed = Page(page)
    assert set(parsed.tags) <= set(plain.tags)
    assert {name for name, _ in parsed.attributes} <= {name for name, _ in plain.attributes}
    page.encode()
    assert not re.search("[\x00\x1b\u202e]", page)


@settings(max_examples=30, deadline=None)
@given(st.text(max_size=40))
def test_any_text_leaves_the_page_whole(string):
    about = About(run_name=string, data_name=string, licence=string, commands={string: string})
    observed = Observed(
        plan_hash=string,
        rounds=1,
        population_planned=1,
        population_least=1,
        population_most=1,
        sampling_rate_planned=0.1,
        sampling_rate_observed=0.1,
        sampling_rate_upper=0.1,
        busiest_device=1,
        alarms=[string],
    )
    page = audit_page(changed(SAMPLE.report, realised=[observed], findings=[string]), None, None, about)
    Page(page)
    page.encode()


class SAMPLE:
    report = None


@pytest.fixture(autouse=True)
def keep_sample(audited):
    """Hypothesis does not mix with fixtures of a function; the value never changes."""
    SAMPLE.report = audited


def test_the_page_loads_nothing(audited, about):
    page = audit_page(audited, EMPIRICAL, SELF_TEST, about)
    parsed = Page(page)
    assert not set(parsed.tags) & {"script", "link", "img", "iframe", "object", "embed", "base", "form", "a"}
    assert not {name for name, _ in parsed.attributes} & {"src", "href", "srcset", "action", "data", "style"}
    assert "http:" not in page
    assert "https:" not in page
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_file_of_the_checklist_exists():
    missing = [hazard.file for hazard in HAZARDS if not (ROOT / hazard.file).is_file()]
    assert not missing
    assert len({hazard.mistake for hazard in HAZARDS}) == len(HAZARDS)


def test_the_json_holds_the_report_at_the_top_and_the_rest_beside_it(audited, about):
    whole = json.loads(audit_json(changed(audited, rho=math.inf), EMPIRICAL, None, about))
    assert whole["epsilon"] == audited.epsilon
    assert whole["rho"] is None
    assert whole["empirical"]["a field of a later version"] == {"deep": [1, 2]}
    assert whole["self_test"] is None
    assert whole["about"]["run_name"] == "market-10"


def test_an_audit_leaves_three_files_and_no_record_of_an_earlier_one(tmp_path, audited, about):
    made = write_documents(tmp_path, audited, EMPIRICAL, SELF_TEST, about)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.html", "audit.json", "deployment.yaml"]
    assert made.unregistered == ""
    broken = write_documents(tmp_path, changed(audited, ledger_ok=False), None, None, about)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["audit.html", "audit.json"]
    assert broken.record is None
    assert "does not hold" in broken.unregistered


def test_a_folder_that_cannot_be_written_is_reported(tmp_path, audited, about):
    with pytest.raises(SottovoceError, match="missing"):
        write_documents(tmp_path / "missing", audited, None, None, about)
