import math
import re
from html.parser import HTMLParser

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sottovoce.simulations.markup import number, significant, size, table, text
from sottovoce.simulations.metrics import Metrics
from sottovoce.simulations.page import ALARM
from sottovoce.simulations.report import (
    LISTED,
    DatasetFacts,
    GateRow,
    PrivacyFacts,
    ReleaseFacts,
    RoundRow,
    RunSummary,
    headline,
    render,
)

RUN = Metrics(0.697, 0.630, 0.472, 0.551, 0.566, 0.031, 17_075, 57_741)
POPULAR = Metrics(0.695, 0.635, 0.475, 0.555, 0.565, 0.040, 17_075, 57_741)
RELEASE = ReleaseFacts(
    bundle_bytes=1_834_112,
    onnx_bytes=1_201_340,
    tflite_bytes=812,
    latency_us={"LiteRT": {1: 21.4, 1024: 1240.4}, "ONNX Runtime": {1: 44.1}},
    parity={"largest score difference": 1.2e-7},
    gates=[GateRow("bundle size", "1.83 MB", "at most 2 MB", True), GateRow("AUC", 0.68, 0.69, False)],
)


def rounds(count, **changed):
    made = [RoundRow(n, 4 * n / count, 2700, 2500, 1.0) for n in range(1, count + 1)]
    return [msgspec.structs.replace(row, **changed) for row in made]


def summary(**changed):
    base = RunSummary(
        title="a run",
        created="2026-11-23 17:42 UTC",
        dataset=DatasetFacts("kuairand", 27_285, 817_187, "CC BY-SA 4.0"),
        experiment='[privacy]\nepsilon = 4.0\nname = "<quiet>"\n',
        rounds=rounds(20, log_loss=0.57, primary=0.54, auc=0.69),
        metrics=RUN,
        baselines={"popularity": POPULAR},
        calibration=[(0.1, 0.12, 100), (0.5, 0.4, 100)],
        privacy=PrivacyFacts(["(4, 1e-5) for each device"], {"entries": "20"}, 4.0, 1e-5),
        release=RELEASE,
        guarantee=True,
    )
    return msgspec.structs.replace(base, **changed)


class Page(HTMLParser):
    """Tags, attributes and text of a page; refuses tags that are not closed in order."""

    VOID = frozenset({"meta", "path", "circle", "br", "rect"})

    def __init__(self, markup):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], [], [], []
        self.feed(markup)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


HOSTILE = [
    '<script src="http://evil.example/x.js"></script>',
    '"><img src=http://evil.example onerror=alert(1)>',
    "</style></title></pre><iframe src='//evil.example'>",
    "' onload='alert(1)",
    "]]>--><!--",
    "&lt;script&gt;&#60;",
    "{{7*7}}\\u003cscript\\u003e",
    "epsilon \u202e000.1\u202c\x00\x1b[31m\ud800",
]


def hostile(string):
    return summary(
        title=string,
        created=string,
        dataset=DatasetFacts(string, 1, 1, string),
        experiment=string,
        baselines={string: POPULAR},
        privacy=PrivacyFacts([string], {string: string}),
        release=ReleaseFacts(1, 1, 1, {string: {1: 1.0}}, {string: 1.0}, [GateRow(string, string, string, False)]),
        guarantee=False,
    )


EXPECTED_TAGS = frozenset(Page(render(summary(guarantee=False))).tags)


@pytest.mark.parametrize("string", HOSTILE)
def test_hostile_text_never_becomes_markup(string):
    page = render(hostile(string))
    parsed = Page(page)
    assert set(parsed.tags) <= EXPECTED_TAGS
    assert not {name for _, name, _ in parsed.attributes if name.startswith("on") or name in {"src", "href", "style"}}
    assert page.encode("utf-8")
    assert not re.search("[\x00\x1b\u202a-\u202e\u2066-\u2069]", page)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_comes_back_as_the_text_it_was(string):
    parsed = Page(render(hostile(string)))
    assert set(parsed.tags) <= EXPECTED_TAGS
    assert "".join(parsed.texts).count(ALARM) >= 3
    shown = Page(f"<p>{text(string)}</p>").texts
    assert len("".join(shown)) == len(string)


def test_a_table_escapes_its_caption_head_and_cells():
    string = '"><b onclick="x()">'
    parsed = Page(table(string, [string, string], [[string, string]]))
    assert "b" not in parsed.tags
    assert not [name for _, name, _ in parsed.attributes if name == "onclick"]
    assert parsed.texts == [string] * 5


def test_plain_text_is_kept_to_the_letter():
    string = 'naïve "quotes" <tags> & Größe, 日本語,\ttab\nline'
    assert "".join(Page(f"<p>{text(string)}</p>").texts) == string


@pytest.mark.parametrize("guarantee", [True, False])
def test_the_page_reaches_for_nothing(guarantee):
    page = render(summary(guarantee=guarantee))
    assert not re.search(
        r"""(?:src|href|action|data|poster|srcset)\s*=|url\(|@import|<(?:script|link|iframe|object)""", page
    )
    assert not re.search(r"https?://", page)
    policy = dict(re.findall(r'http-equiv="([^"]+)" content="([^"]+)"', page))["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "script" not in policy
    assert page.index("Content-Security-Policy") < page.index("<style>"), "the policy must come before what it governs"


def test_a_run_without_guarantee_says_so_first_last_in_its_title_and_on_paper():
    page = render(summary(guarantee=False))
    body = page.split("<body>")[1]
    assert body.startswith(f'<div class="alarm" role="alert">{ALARM}</div>')
    assert f"<title>{ALARM}" in page
    assert ALARM in body.split("<footer")[1]
    assert re.search(rf'@top-center \{{ content: "{ALARM}"', page)
    assert re.search(r"\.alarm \{[^}]*position: sticky", page)
    assert "No privacy is promised" in page
    assert "What is guaranteed" not in page
    assert "Epsilon spent<" not in page


def test_a_run_with_guarantee_carries_no_banner_and_its_claims():
    page = render(summary())
    assert ALARM not in page
    assert "What is guaranteed" in page
    assert "(4, 1e-5) for each device" in page
    assert "delta 1e-05, budget 4" in page


def test_the_banner_cannot_be_written_away_by_the_summary():
    page = render(summary(guarantee=False, title="</title>GUARANTEED<!--", rounds=[], metrics=None, release=None))
    assert page.split("<body>")[1].startswith(f'<div class="alarm" role="alert">{ALARM}</div>')


@pytest.mark.parametrize("count", [0, 1, 2, LISTED, LISTED + 1, 200, 10_000])
@pytest.mark.parametrize("evaluated", [0, 10])
def test_runs_of_any_length_make_a_sound_page_of_bounded_size(count, evaluated):
    made = [
        msgspec.structs.replace(row, primary=0.5, auc=0.6) if evaluated and row.round % evaluated == 0 else row
        for row in rounds(count)
    ]
    page = render(summary(rounds=made))
    Page(page)
    assert len(page) < 120_000
    assert "nan" not in page.split("<body>")[1].lower().replace("nanoseconds", "")
    if not count:
        assert "No round has finished." in page
        return
    listed = re.search(r"<details>.*</details>", page).group().count("<tr>") - 1
    assert min(count, 2) <= listed <= LISTED
    assert f'<th scope="row">{count:,}</th>' in page, "the last round is always listed"
    assert ("No round was evaluated" in page) == (not any(row.primary for row in made))


def test_a_run_without_noise_shows_an_infinite_epsilon_and_no_curve():
    page = render(summary(rounds=rounds(5, epsilon=math.inf), guarantee=False))
    assert "No noise was added: epsilon is infinite." in page
    assert '<dd class="value">∞</dd>' in page
    assert "Epsilon spent, all rounds so far" not in page


def test_log_loss_is_drawn_where_it_was_measured_and_without_the_mark_of_chance():
    chance = msgspec.structs.replace(POPULAR, log_loss=0.999)
    page = render(summary(baselines={"popularity": POPULAR, "random": chance}))
    chart = re.search(r"<figcaption>Log loss on held-out rows \(nats\)</figcaption>.*?</figure>", page).group()
    assert "this run 0.570" in chart
    assert ">popularity<" in chart
    assert ">random<" not in chart
    assert "Log loss on held-out rows (nats)" not in render(summary(rounds=rounds(3)))


def test_the_top_names_the_best_of_the_others():
    top = render(summary(baselines={"popularity": POPULAR, "chance": RUN})).split("<main>")[0]
    assert "best other: 0.555 by popularity" in top
    assert "best other: 0.697 by chance" in top


def test_an_unfinished_run_says_what_is_missing():
    page = render(summary(rounds=[], metrics=None, baselines={}, calibration=[], release=None, experiment=""))
    for words in (
        "No round has finished.",
        "The final model was not evaluated.",
        "Nothing was exported",
        "Not recorded.",
    ):
        assert words in page


def test_the_model_stands_among_the_baselines_by_rank():
    table = re.search(r"<caption>Held-out rows.*?</table>", render(summary())).group()
    assert re.findall(r'<th scope="row">([^<]+)', table) == ["this run", "popularity"]
    assert re.search(r'<tr class="strong"><th scope="row">this run</th><td>0.551</td><td>0.697</td>', table)
    assert "57,741 of 17,075 devices" in table


def test_a_baseline_equal_to_the_model_is_not_mistaken_for_it():
    twin = msgspec.structs.replace(RUN)
    table = re.search(r"<caption>Held-out rows.*?</table>", render(summary(baselines={"twin": twin}))).group()
    assert re.findall(r'<tr class="strong"><th scope="row">([^<]+)', table) == ["this run"]


def test_a_failed_gate_is_told_in_words_and_at_the_top():
    page = render(summary())
    assert "1 of 2 gates failed" in page.split("<main>")[0]
    assert '<span class="failed">✗ FAILED</span><span>AUC: measured 0.68, limit 0.69</span>' in page
    assert '<span class="passed">✓ passed</span><span>bundle size: measured 1.83 MB, limit at most 2 MB</span>' in page


def test_sizes_latency_and_parity_are_there_with_units_and_gaps_shown():
    page = render(summary())
    for words in ("1.83 MB", "1,834,112", "812 B", "1,240.4", "1.2e-07", "µs"):
        assert words in page
    assert '<th scope="row">1,024</th><td>1,240.4</td><td>-</td>' in page


def test_a_summary_survives_its_own_json():
    before = summary(guarantee=False)
    again = msgspec.json.decode(msgspec.json.encode(before), type=RunSummary)
    assert again == before
    assert render(again) == render(before)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (number(None), "-"),
        (number(math.nan), "-"),
        (number(-math.inf), "-∞"),
        (number(1234.5678, 1), "1,234.6"),
        (significant(4.0), "4"),
        (significant(1.23456e-7), "1.23e-07"),
        (significant(123456.7), "123,457"),
        (significant(math.inf), "∞"),
        (size(999), "999 B"),
        (size(1000), "1.0 kB"),
        (size(1_834_112), "1.83 MB"),
    ],
)
def test_figures_read_well(shown, expected):
    assert shown == expected


def test_the_epsilon_at_the_top_counts_rounds_that_were_paid_for_and_lost():
    lost = msgspec.structs.replace(summary().privacy, spent=4.75)
    tiles = {name: value for name, value, _, _ in headline(summary(privacy=lost))}
    assert tiles["Epsilon spent"] == "4.75"
