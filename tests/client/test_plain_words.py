"""A forbidden word is found in spite of how it is spelled, and a length is what a person counts."""

import pytest

from sottovoce.client.plain_words import graphemes, mixed_script, needle, spellings


def contains(text, phrase):
    return any(needle(phrase) in reading for reading in spellings(text))


@pytest.mark.parametrize(
    "text",
    [
        "free tea",
        "FREE",
        "Get it fr\u200bee!",  # zero width space
        "fr\u00adee",  # soft hyphen
        "\uff26\uff32\uff25\uff25",  # full width
        "\U0001d5ff\U0001d5f2 \U0001d5d9\U0001d5ff\U0001d5f2\U0001d5f2",  # mathematical letters
        "f\u0332r\u0332e\u0332e\u0332",  # underlined by combining marks
        "f r e e",
        "F.R.E.E.",
        "fr33",
        "fr\u3164ee",  # a filler that counts as a letter
        "free!",
        "$ave and be fr3e",
        "\u2067free\u2069",  # direction marks
        "tea-free-zone",
        "_free_",
    ],
)
def test_a_word_is_found_however_it_is_dressed(text):
    assert contains(text, "Free")


@pytest.mark.parametrize("text", ["freedom", "carefree", "fre e", "", "33", "a b c", "$5 fr"])
def test_other_words_are_left_alone(text):
    assert not contains(text, "free")


def test_phrases_case_rules_and_scripts_without_spaces():
    assert contains("It is CLINICALLY,  proven.", "clinically proven")
    assert not contains("clinically not proven", "clinically proven")
    assert contains("GROSSE STRASSE", "große straße")
    assert contains("ca$$ino", "cassino")
    assert contains("co1d", "cold")
    assert contains("मुफ़्त चाय", "मुफ़्त")
    assert not contains("मुफ़्तखोर चाय", "मुफ़्त")
    assert contains("世界一の茶", "世界一")
    assert not needle("!!!").strip()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("fr\u0435e tea", "fr\u0435e"),
        ("\u0391pple", "\u03b1pple"),
        ("чай tea", ""),
        ("café", ""),
        ("日本 tea", ""),
        ("5 µm", ""),
        ("\u03bcagic", "\u03bcagic"),
    ],
)
def test_a_word_of_two_scripts_is_a_finding(text, word):
    assert mixed_script(text) == word


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("tea", 3),
        ("cafe\u0301", 4),
        ("\U0001f468\u200d\U0001f469\u200d\U0001f467", 1),  # a family
        ("\U0001f44d\U0001f3fd", 1),  # a thumb with a skin tone
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", 2),  # two flags
        ("❤\ufe0f", 1),
        ("\u1112\u1161\u11ab", 1),  # Hangul in parts
        ("한국어", 3),
        ("\u200b" * 5, 5),  # nothing hides in what is not seen
        ("", 0),
    ],
)
def test_characters_are_counted_as_seen(text, count):
    assert graphemes(text) == count
