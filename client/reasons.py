"""Why an ad was not shown, and why there was no ad: two closed tables of codes with words.

Codes below 500 are OpenRTB's own loss and no-bid reasons (OpenRTB 2.6, AdCOM lists); codes from 500 are ours.
"""

from enum import IntEnum
from typing import Self


class _Code(IntEnum):
    """A number with words.

    Attributes:
        words: the reason as a short clause.
    """

    words: str

    def __new__(cls, code: int, words: str) -> Self:
        member = int.__new__(cls, code)
        member._value_ = code
        member.words = words
        return member


class Loss(_Code):
    """Why one candidate did not win."""

    BELOW_FLOOR = 100, "its value is below the floor of the place"
    OUTBID = 102, "another ad was worth more"
    AUDIT_PENDING = 201, "its creative is not approved yet"
    AUDIT_REFUSED = 202, "its creative was refused or its approval ended"
    SIZE = 203, "it does not have the size of the place"
    FORMAT = 204, "the place does not take its format"
    ADVERTISER_BLOCKED = 205, "the page blocks its advertiser"
    NOT_SECURE = 207, "the place takes secure markup only"
    LANGUAGE = 208, "the page does not take its language"
    CATEGORY_BLOCKED = 209, "the page blocks its category"
    ATTRIBUTE_BLOCKED = 210, "the place blocks one of its creative attributes"
    OUTSIDE_FLIGHT = 500, "its campaign does not run now"
    OUTSIDE_DAYPART = 501, "its campaign does not run at this hour"
    CURRENCY = 502, "its currency is not the one of the request"
    TAXONOMY = 503, "the page's block list uses categories that cannot be compared with its own"
    SENSITIVE = 504, "its category is sensitive and is never personalised"
    THROTTLED = 505, "its campaign is slowed down to last"
    RATING = 506, "its age rating is above what may be shown here"
    COMPETITOR_BESIDE = 507, "an ad of a competitor stands beside this place"
    COMPETITOR_BEFORE = 508, "an ad of a competitor was shown just before"
    UNPAID = 509, "its campaign pays nothing, and one that pays fits"
    CAPPED_CREATIVE = 510, "this ad was shown often enough"
    CAPPED_CAMPAIGN = 511, "its campaign was shown often enough"
    CAPPED_ADVERTISER = 512, "its advertiser was shown often enough"
    CAPPED_CATEGORY = 513, "its category was shown often enough"
    COOLING_DOWN = 514, "it rests after a dismissal or a conversion"
    UNPRICED = 520, "its value cannot be estimated here"
    NOT_ITS_TURN = 521, "another ad was shown less recently"
    LOW_QUALITY = 530, "too few of its clicks come to anything"
    NOT_WORTH_SHOWING = 531, "it would cost the person more than it earns"
    NO_COMBINATION = 540, "none of its combinations may be shown here now"
    MUTED_AD = 550, "the person muted this ad"
    MUTED_ADVERTISER = 551, "the person muted its advertiser"
    MUTED_CATEGORY = 552, "the person muted its category"


LOSSES = {int(reason): reason for reason in Loss}
"""Reasons by code."""


class NoBid(_Code):
    """Why a request was answered without an ad."""

    DAILY_CAP = 9, "enough ads were shown in the last day"
    NO_CANDIDATE = 500, "no ad fits this place now"
    EMPTY_CATALOGUE = 501, "the catalogue holds no ads"
    NOT_ALLOWED = 502, "the person allows no selection of ads (TCF purpose 2)"
    ALL_CAPPED = 503, "every ad that fits was shown often enough"
    NONE_REACHED_FLOOR = 504, "no ad reached the floor of the place"
    QUIET_HOURS = 505, "it is a quiet hour"
    HOURLY_CAP = 506, "enough ads were shown in the last hour"
    TOO_SOON = 507, "the last ad was shown a moment ago"
    NOT_CHECKED = 508, "the rules could not be checked, and nothing is shown without them"
