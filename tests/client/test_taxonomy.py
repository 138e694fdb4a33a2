import pytest

from sottovoce.client.taxonomy import SENSITIVE_CONTENT, named, sensitive

FLAGGED_IN_2_2_ONLY = [
    "136",
    "188",
    "189",
    "199",
    "200",
    "211",
    "214",
    "224",
    "231",
    "237",
    "319",
    "320",
    "321",
    "322",
    "387",
    "388",
    "410",
    "462",
    "463",
    "465",
    "468",
    "549",
]
SENSITIVE_TOPICS = [
    "v9i3On",
    "Rm3SiT",
    "avbNf2",
    "XtODT3",
    "I4GWl6",
    "Z7rJBM",
    "HxqYV1",
    "pg0WhF",
    "j9PaO9",
    "mm3UXx",
    "6i4dB6",
    "8FD8nI",
]


@pytest.mark.parametrize("category", [*FLAGGED_IN_2_2_ONLY, *SENSITIVE_TOPICS, "386", "286", "453", "301", "461"])
@pytest.mark.parametrize("cattax", [5, 6, 7, 9])
def test_the_union_of_both_flag_columns_is_sensitive(category, cattax):
    assert sensitive([category], cattax) == category


@pytest.mark.parametrize(
    ("parent", "children"),
    [("186", ["192", "193", "196"]), ("410", ["411", "414"]), ("386", ["8YPBBL"]), ("287", ["292", "311"])],
)
def test_descendants_inherit_the_flag(parent, children):
    assert {parent, *children} <= SENSITIVE_CONTENT


@pytest.mark.parametrize("category", ["483", "596", "653", "1", "210", "391", "680"])
def test_ordinary_topics_are_not_sensitive(category):
    assert sensitive([category], 9) == ""


@pytest.mark.parametrize("category", ["1001", "1002", "1007", "1049", "1259", "1365", "1391", "1479", "1490", "1578"])
def test_sensitive_products_are_covered(category):
    assert sensitive([category], 8) == category


@pytest.mark.parametrize("category", ["1008", "1058", "1097", "1335", "1529", "1551", "1355"])
def test_ordinary_products_are_not_sensitive(category):
    assert sensitive([category], 8) == ""


@pytest.mark.parametrize("cattax", [1, 2, 3, 4, 500])
def test_a_taxonomy_without_a_list_is_sensitive_as_a_whole(cattax):
    assert sensitive(["anything"], cattax) == "anything"
    assert sensitive([], cattax) == ""


def test_categories_have_names_where_they_are_known():
    assert named("483", 9) == "Sports"
    assert named("1059", 8) == "Clothing and Accessories"
    assert named("1582", 8) == "Weapons and Ammunition"
    for unknown, cattax in (("1583", 8), ("999", 8), ("٣٤٥٦", 8), ("x", 9), ("1", 1)):
        assert named(unknown, cattax) == f"category {unknown}"
