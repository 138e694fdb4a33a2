"""Sensitive categories, and the names of the top ones.

Sensitive categories are never personalised and never used: see `sensitive` for the rule. What is covered:

* Content 2.1, 2.2, 3.0 and 3.1 (`cattax` 5, 6, 7, 9), which share their ids: every id flagged SCD in 2.2 or in 3.1,
  with all its descendants in 3.1; Politics (386) with its subtree; Sensitive Topics (v9i3On) with its subtree. The flag
  column is shifted in 3.0 and 3.1 (Reptiles, Smart Home and Auto Racing carry it, Judaism and Vaccines do not), which
  is why the union is taken: a category too many costs little.
* Ad Product 2.0 (`cattax` 8) carries no flags. The list is ours: what corresponds to the content rule or to special
  categories of personal data, and adult products, alcohol, cannabis, gambling, tobacco, weapons, debt.
* Any other taxonomy counts as sensitive as a whole, because nothing is known about its ids.

An id that its taxonomy does not list is not sensitive: the lists of all ids are not shipped.

Source: IAB Tech Lab Content Taxonomy 2.2 and 3.1, Ad Product Taxonomy 2.0 (CC BY 3.0).
"""

from collections.abc import Iterable


def _span(first: int, last: int) -> frozenset[str]:
    """Ids first ... last; both taxonomies number a branch without gaps where this is used."""
    return frozenset(str(number) for number in range(first, last + 1))


SENSITIVE_CONTENT = (
    _span(186, 200)  # Family and Relationships
    | _span(286, 323)  # Medical Health
    | _span(386, 388)  # Politics
    | _span(410, 414)  # Personal Investing
    | _span(453, 463)  # Religion & Spirituality
    | frozenset({"135", "136"})  # Secondary and Special Education
    | frozenset({"209", "211", "212", "214", "224", "228", "231", "234", "237", "277", "383", "406", "429", "431"})
    | frozenset({"443", "444", "451", "452", "465", "468", "518", "519", "549", "KHPC6A"})
    | frozenset({"8YPBBL"})  # Civic affairs, below Politics
    | frozenset({"v9i3On", "Rm3SiT", "avbNf2", "XtODT3", "I4GWl6", "Z7rJBM", "HxqYV1", "pg0WhF"})  # Sensitive Topics
    | frozenset({"j9PaO9", "mm3UXx", "6i4dB6", "8FD8nI"})
)

SENSITIVE_PRODUCTS = (
    _span(1000, 1007)  # Ad Safety Risk, Adult, Alcohol
    | _span(1049, 1057)  # Cannabis
    | frozenset({"1208", "1239"})  # Over the Counter Medication, Religious Items
    | _span(1253, 1255)  # Vitamins and Supplements
    | _span(1259, 1262)  # Dating, Debated Sensitive Social Issue
    | _span(1291, 1294)  # Dieting and Weightloss
    | frozenset({"1338", "1344", "1349", "1418"})  # debt repair, medical insurance, payday loans, bail bonds
    | _span(1361, 1367)  # Gambling
    | _span(1378, 1395)  # Health and Medical Services
    | _span(1473, 1481)  # Pharmaceuticals, Politics
    | _span(1487, 1493)  # Religion and Spirituality
    | _span(1519, 1523)  # Sexual Health
    | _span(1544, 1550)  # Tobacco
    | _span(1576, 1582)  # Weapons and Ammunition
)

_SENSITIVE = {
    5: SENSITIVE_CONTENT,
    6: SENSITIVE_CONTENT,
    7: SENSITIVE_CONTENT,
    8: SENSITIVE_PRODUCTS,
    9: SENSITIVE_CONTENT,
}


def sensitive(categories: Iterable[str], cattax: int) -> str:
    """The first sensitive category, or the empty string.

    Args:
        categories: ids.
        cattax: their taxonomy; one without a list here makes every category sensitive.
    """
    listed = _SENSITIVE.get(cattax)
    return next((category for category in categories if listed is None or category in listed), "")


_CONTENT_NAMES = {
    "150": "Attractions",
    "1": "Automotive",
    "42": "Books and Literature",
    "52": "Business and Finance",
    "123": "Careers",
    "80DV8O": "Communication",
    "380": "Crime",
    "381": "Disasters",
    "132": "Education",
    "JLBCU7": "Entertainment",
    "8VZQHL": "Events",
    "186": "Family and Relationships",
    "201": "Fine Art",
    "210": "Food & Drink",
    "SPSHQ5": "Genres",
    "223": "Healthy Living",
    "239": "Hobbies & Interests",
    "1KXCLD": "Holidays",
    "274": "Home & Garden",
    "383": "Law",
    "286": "Medical Health",
    "163": "Personal Celebrations & Life Events",
    "391": "Personal Finance",
    "422": "Pets",
    "386": "Politics",
    "432": "Pop Culture",
    "441": "Real Estate",
    "453": "Religion & Spirituality",
    "464": "Science",
    "v9i3On": "Sensitive Topics",
    "473": "Shopping",
    "483": "Sports",
    "552": "Style & Fashion",
    "596": "Technology & Computing",
    "653": "Travel",
    "680": "Video Gaming",
    "389": "War and Conflicts",
}

# First id of each top-level branch; a branch reaches up to the next one.
_PRODUCT_BRANCHES = (
    (1000, "Ad Safety Risk"),
    (1001, "Adult Products and Services"),
    (1002, "Alcohol"),
    (1008, "Culture and Fine Arts"),
    (1010, "Business and Industrial"),
    (1049, "Cannabis"),
    (1058, "Clothing and Accessories"),
    (1075, "Collectables and Antiques"),
    (1082, "Computer Software"),
    (1088, "Cosmetic Services"),
    (1097, "Consumer Electronics"),
    (1123, "Consumer Packaged Goods"),
    (1259, "Dating"),
    (1262, "Debated Sensitive Social Issue"),
    (1263, "Durable Goods"),
    (1291, "Dieting and Weightloss"),
    (1295, "Education and Careers"),
    (1315, "Events and Performances"),
    (1328, "Family and Parenting"),
    (1335, "Finance and Insurance"),
    (1355, "Food and Beverage Services"),
    (1361, "Gambling"),
    (1368, "Green/Eco"),
    (1371, "Gifts and Holiday Items"),
    (1378, "Health and Medical Services"),
    (1396, "Home and Garden Services"),
    (1416, "Legal Services"),
    (1419, "Media"),
    (1443, "Metals"),
    (1448, "Non-Fiat Currency"),
    (1452, "Non-Profits"),
    (1460, "Pet Ownership"),
    (1467, "Personal/Consumer Telecom"),
    (1473, "Pharmaceuticals"),
    (1474, "Politics"),
    (1482, "Real Estate"),
    (1487, "Religion and Spirituality"),
    (1494, "Retail"),
    (1510, "Fitness Activities"),
    (1519, "Sexual Health"),
    (1524, "Sporting Goods"),
    (1529, "Travel and Tourism"),
    (1544, "Tobacco"),
    (1551, "Vehicles"),
    (1576, "Weapons and Ammunition"),
)
_LAST_PRODUCT = 1582


def named(category: str, cattax: int) -> str:
    """A category in words: its name where it is known, else "category ID".

    Content categories are named when they are top-level; a product category takes the name of its top-level branch.
    """
    words = ""
    if cattax == 8 and category.isascii() and category.isdigit() and len(category) == 4:
        number = int(category)
        branches = [name for first, name in _PRODUCT_BRANCHES if first <= number <= _LAST_PRODUCT]
        words = branches[-1] if branches else ""
    elif cattax in (5, 6, 7, 9):
        words = _CONTENT_NAMES.get(category, "")
    return words or f"category {category}"
