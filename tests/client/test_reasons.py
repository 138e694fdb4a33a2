import msgspec
import pytest

from sottovoce.client.reasons import Loss, NoBid


@pytest.mark.parametrize("reason", [*Loss, *NoBid])
def test_every_reason_has_words_and_encodes_as_its_number(reason):
    assert reason.words
    assert msgspec.json.encode(reason) == str(int(reason)).encode()


def test_codes_below_500_are_openrtb_reasons_and_ours_start_at_500():
    openrtb = {100, 102, 104, 200, 201, 202, 203, 204, 205, 207, 208, 209, 210}
    assert {int(reason) for reason in Loss if reason < 500} <= openrtb
    assert {int(reason) for reason in NoBid if reason < 500} == {9}
    assert len({int(reason) for reason in Loss}) == len(list(Loss.__members__))
