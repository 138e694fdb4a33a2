"""Every guardrail refuses what it is there for, says where and what it saw, and lets the small creative pass."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_creative import BRAND, GENERATED, MADE, PLAIN, creative, with_component, with_slot

from sottovoce.client.brand_rules import CombinationRules, component_findings, disclosures
from sottovoce.client.contrast import contrast
from sottovoce.client.creative import decode_creative
from sottovoce.client.guardrails import Disclaimer, Flaw, Guardrails, decode_guardrails
from sottovoce.privacy.errors import DeviceError

STRICT = msgspec.structs.replace(
    BRAND,
    forbidden_words=("cheap", "miracle cure"),
    banned_claims=("clinically proven",),
    lengths={"ctatext": 9},
    disclaimers=(Disclaimer(cat=("1002",), text="Drink responsibly"),),
)


def findings(of, brand=STRICT):
    return [(one.flaw, one.where) for one in component_findings(of, brand)]


def test_a_good_creative_passes():
    assert findings(creative()) == []


@pytest.mark.parametrize(
    ("made", "flaw", "where"),
    [
        (with_component("title", 0, text="Ch3ap tea"), Flaw.WORD, "title/calm"),
        (with_component("title", 0, text="Sw\u0435et tea"), Flaw.WORD, "title/calm"),
        (with_component("title", 1, text="Clinically-proven tea"), Flaw.CLAIM, "title/bold"),
        (with_component("title", 0, text="x" * 26), Flaw.LENGTH, "title/calm"),
        (with_component("button", 0, text="Buy it now"), Flaw.LENGTH, "button/shop"),
        (with_slot(2, color="#777777"), Flaw.CONTRAST, "button/shop"),
        (with_slot(2, color=""), Flaw.CONTRAST, "button/shop"),
        (with_component("button", 0, language="fr"), Flaw.LANGUAGE, "button/shop"),
        (with_component("button", 0, language=""), Flaw.LANGUAGE, "button/shop"),
        (with_component("picture", 1, provenance=None), Flaw.PROVENANCE, "picture/leaf"),
        (
            with_component("picture", 1, provenance=GENERATED | {"human_oversight": "prompt_only"}),
            Flaw.PROVENANCE,
            "picture/leaf",
        ),
        (with_component("picture", 1, provenance=GENERATED | {"disclosure": None}), Flaw.PROVENANCE, "picture/leaf"),
        (with_component("picture", 0, img={"sha256": "a" * 64, "w": 599, "h": 627}), Flaw.FORM, "picture/cup"),
        (with_slot(2, type=3), Flaw.FORM, "button/shop"),
        (with_slot(2, type=11), Flaw.LINK, "button/shop"),
        (creative(link="http://tea.example/"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example.evil.example/"), Flaw.LINK, "frame"),
        (creative(link="https://eviltea.example/"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example@evil.example/"), Flaw.LINK, "frame"),
        (creative(link="https://evil.example@tea.example/"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example:8443/"), Flaw.LINK, "frame"),
        (creative(link="https://te\u0430.example/"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example\\@evil.example/"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example/?id=${AUCTION_ID}"), Flaw.LINK, "frame"),
        (creative(link="https://tea.example:port/"), Flaw.LINK, "frame"),
    ],
)
def test_a_rule_refuses_and_names_the_place(made, flaw, where):
    assert findings(made) == [(flaw, where)]


@pytest.mark.parametrize(("text", "fits"), [("4.5", True), ("0", True), ("5.1", False), ("nan", False), ("1_0", False)])
def test_a_rating_is_a_number_up_to_five(text, fits):
    made = with_component("button", 0, text=text)
    slots = (*made.template.slots[:2], msgspec.structs.replace(made.template.slots[2], type=3))
    rated = msgspec.structs.replace(made, template=msgspec.structs.replace(made.template, slots=slots))
    assert (findings(rated) == []) == fits


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=40).filter(str.strip), st.text(max_size=40))
def test_no_text_and_no_link_breaks_a_rule(text, link):
    made = msgspec.structs.replace(with_component("title", 0, text=text), link="https://" + link)
    assert all(isinstance(flaw, Flaw) for flaw, _ in findings(made))
    CombinationRules(made, STRICT).finding(CALM)


def test_large_text_needs_less_contrast_and_a_brand_that_draws_on_images_turns_it_off():
    assert findings(with_slot(0, color="#888888", large=True)) == []
    assert findings(with_slot(0, color=""), msgspec.structs.replace(STRICT, contrast=False)) == []


def test_without_guardrails_no_link_is_allowed():
    assert findings(creative(), Guardrails(version=1)) == [(Flaw.LINK, "frame")]


@pytest.mark.parametrize(
    ("color", "background", "ratio"),
    [
        ("#000000", "#ffffff", 21.0),
        ("#777777", "#ffffff", 4.48),
        ("#767676", "#ffffff", 4.54),
        ("#f00000", "#f00000", 1),
    ],
)
def test_contrast_is_that_of_wcag(color, background, ratio):
    assert contrast(color, background) == pytest.approx(ratio, abs=0.005) == contrast(background, color)


CALM = ("title/calm", "picture/cup", "button/shop")


def together(made, parts=CALM, brand=STRICT):
    found = CombinationRules(made, brand).finding(parts)
    return found and found.flaw


def test_parts_that_fit_alone_may_not_fit_together():
    assert together(creative()) is None
    assert together(creative(apart=[["button/shop", "title/calm"]])) == Flaw.APART
    assert together(with_component("button", 0, language="fr")) == Flaw.LANGUAGE
    assert together(creative(cat=["1002"])) == Flaw.DISCLAIMER
    split = with_component("title", 0, text="Tea: clinically")
    split = msgspec.structs.replace(
        split, components=split.components | {"button": with_component("button", 0, text="Proven").components["button"]}
    )
    assert findings(split) == []
    assert together(split) == Flaw.CLAIM


def test_a_disclaimer_in_any_slot_is_enough_and_only_its_category_and_language_need_it():
    said = with_component("button", 0, text="Drink responsibly!")
    assert together(msgspec.structs.replace(said, cat=("1002",))) is None
    assert together(creative(cat=["1003"])) is None
    french = (Disclaimer(cat=("1002",), text="À consommer avec modération", language="fr"),)
    assert together(creative(cat=["1002"]), brand=msgspec.structs.replace(STRICT, disclaimers=french)) is None


def test_labels_are_shown_where_they_must_be():
    leaf = ("title/calm", "picture/leaf", "button/shop")
    assert disclosures(creative(), leaf, "EU") == ("Made with AI",)
    assert disclosures(creative(), leaf, "US-CA") == ()
    assert disclosures(creative(), leaf, "") == ("Made with AI",)  # not known where: everywhere
    assert disclosures(creative(), CALM, "EU") == ()
    there = GENERATED | {"disclosure": {"required": True, "jurisdictions": ["US-CA", "FR"], "label": "AI"}}
    made = with_component("picture", 1, provenance=there)
    told = {place: disclosures(made, leaf, place) for place in ("US-CA", "US-NY", "US", "FR", "FR-75")}
    assert [place for place, labels in told.items() if labels] == ["US-CA", "FR", "FR-75"]


def _bent(**changes):
    return msgspec.json.encode(PLAIN | changes)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (_bent(colour=1), "colour"),
        (_bent(components={"title": [{"id": "a"}]}), "$.components[...][0]"),
        (_bent(components={"tittle": []}), "'tittle'"),
        (_bent(components={"picture": [{"id": "a", "text": "x"}]}), "picture/a"),
        (_bent(components={"title": [{"id": "a", "text": "x"}] * 2}), "two have one id"),
        (_bent(components={"title": [{"id": "a", "text": "x", "provenance": MADE | {"tool": 1}}]}), "provenance.tool"),
        (
            _bent(components={"title": [{"id": "a", "text": "x", "provenance": MADE | {"digital_source_type": "x"}}]}),
            "not a current IPTC value",
        ),
        (_bent(template={"id": "t", "slots": [{"id": "a", "kind": "img", "type": 2}]}), "no type 2"),
        (_bent(template={"id": "t", "slots": [{"id": "a", "kind": "title"}] * 2}), "two slots"),
        (_bent(apart=[["title/calm", "title/none"]]), "apart"),
        (_bent(listed=[["title/calm"]]), "listed"),
        (b"\xff", "creative.json"),
        (b"[" * 100_000, "creative.json"),
        (b" " * (1024 * 1024 + 1), "at most"),
    ],
)
def test_a_wrong_creative_is_refused_with_its_place(data, named):
    with pytest.raises(DeviceError) as caught:
        decode_creative(data)
    assert named in caught.value.what


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"forbidden_words": ["!!"]}, "would never be found"),
        ({"lengths": {"headline": 3}}, "'headline'"),
        ({"domains": ["https://tea.example"]}, "$.domains[0]"),
        ({"version": 2}, "$.version"),
    ],
)
def test_a_wrong_guardrail_file_is_refused_with_its_place(change, named):
    with pytest.raises(DeviceError) as caught:
        decode_guardrails(msgspec.json.encode({"version": 1} | change))
    assert named in caught.value.what
