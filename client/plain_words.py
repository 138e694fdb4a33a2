"""Text as a person reads it: what is the same word in spite of how it is spelled, and how many characters it has.

`folded` undoes what hides a word from a comparison: letters of other widths and styles (NFKC), case, invisible
characters, loose combining marks, punctuation between single letters ("f.r.e.e"), and digits in the place of letters
("fr33"). Letters of another script that look alike are not undone: a word that mixes scripts is a finding of its own
(`mixed_script`), and a whole word in look-alike letters of one other script stays unseen.

Source: Unicode Standard Annex 15 (normal forms); Annex 29 (grapheme clusters), of which `graphemes` keeps the rules for
marks, joiners, variation selectors, emoji modifiers, flags and Hangul, and leaves out those for Indic conjuncts.
"""

import re
import unicodedata

_INVISIBLE = frozenset("\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u3164\ufeff\uffa0")
_JOINER = "\u200d"
_LETTERS = (str.maketrans("0134578@$!", "oieastbasi"), str.maketrans("0134578@$!", "oleastbasi"))
_SIGNS = re.compile(r"(?<=[^\W\d_])[@$!]+(?=[^\W\d_])|[@$](?=[^\W\d_])")
_SINGLES = re.compile(r"(?<![^\W_])[^\W_](?:[\W_]{1,2}[^\W_](?![^\W_])){2,}")
_UNITS = re.compile(r"(?<![^\W\d_])\u03bc(?=[a-z]{1,2}(?![^\W\d_]))")
"""The prefix "micro", which is a Greek letter before a Latin one: 5 \u03bcm."""

_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARMENIAN", "CHEROKEE")
"""Scripts whose letters are confused with one another."""


def folded(text: str) -> str:
    """The text for comparisons: small letters, words separated by one space, nothing invisible."""
    return _words(_visible(text))


def _words(text: str) -> str:
    """Letters and digits with the marks on them; a space for everything between."""
    return " ".join("".join(c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text).split())


def _visible(text: str) -> str:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return "".join(character for character in text if character in "\t\n\r" or not _unseen(character))


def _unseen(character: str) -> bool:
    """It shows nothing of its own, or only a mark on the letter before."""
    return (
        character in _INVISIBLE
        or unicodedata.category(character) in ("Cf", "Cc", "Cs", "Co", "Cn")
        or unicodedata.name(character, "").startswith(("COMBINING ", "VARIATION SELECTOR"))
    )


def spellings(text: str) -> tuple[str, ...]:
    """Every reading in which a forbidden word is looked for, each with a space before and after.

    The plain one; one with letters for digits, in words that have both; one with single letters drawn together.
    """
    visible = _visible(text)
    drawn = _SINGLES.sub(lambda run: re.sub(r"[\W_]+", "", run.group()), visible)
    readings = (_words(visible), *(_undisguised(visible, letters) for letters in _LETTERS), _words(drawn))
    return tuple(dict.fromkeys(f" {reading} " for reading in readings))


def _undisguised(visible: str, letters: dict[int, int]) -> str:
    """Signs beside letters, and digits in words that have letters, read as letters."""
    text = _words(_SIGNS.sub(lambda run: run.group().translate(letters), visible))
    return " ".join(word.translate(letters) if re.search(r"[^\W\d_]", word) else word for word in text.split())


def needle(phrase: str) -> str:
    """What to look for in the readings of a text: the words of `phrase`, one after the other, with spaces around.

    Where words are written without spaces between them (Chinese, Japanese, Thai) there are none around, so that the
    phrase is found inside a longer run.
    """
    wanted = folded(phrase)
    return wanted if _unspaced(wanted) else f" {wanted} "


def _unspaced(text: str) -> bool:
    names = (unicodedata.name(character, "") for character in text if not character.isspace())
    return any(name.startswith(("CJK ", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR")) for name in names)


def mixed_script(text: str) -> str:
    """The first word with letters of two scripts that are confused with one another, or the empty string."""
    for word in re.findall(r"[^\W\d_]+", _UNITS.sub("", _visible(text))):
        names = [unicodedata.name(character, "") for character in word]
        if len({script for script in _SCRIPTS for name in names if name.startswith(script + " ")}) > 1:
            return str(word)
    return ""


def graphemes(text: str) -> int:
    """How many characters a person sees. Invisible ones that stand alone count, so that nothing hides in them."""
    count, before, flags = 0, "", 0
    for character in unicodedata.normalize("NFC", text):
        flag = "\U0001f1e6" <= character <= "\U0001f1ff"
        flags = flags + 1 if flag else 0
        joined = bool(before) and (
            unicodedata.category(character) in ("Mn", "Me", "Mc")
            or character == _JOINER
            or "\U0001f3fb" <= character <= "\U0001f3ff"
            or (before == _JOINER and unicodedata.category(character) == "So")
            or (flag and flags % 2 == 0)
            or (before == "\r" and character == "\n")
            or _same_syllable(before, character)
        )
        count += not joined
        before = character
    return count


def _same_syllable(before: str, character: str) -> bool:
    """Hangul written in parts: a vowel after a leading consonant, a trailing consonant after a vowel."""
    leading, vowel, trailing = "\u1100" <= before <= "\u115f", "\u1160" <= character <= "\u11a7", character >= "\u11a8"
    return (leading and vowel) or (
        trailing and character <= "\u11ff" and ("\u1160" <= before <= "\u11ff" or "\uac00" <= before <= "\ud7a3")
    )
