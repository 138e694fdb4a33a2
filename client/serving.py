"""What may choose the ad: the person's history, the page alone, or nothing."""

from sottovoce.client.consent import Consent
from sottovoce.client.controls import Controls
from sottovoce.client.decision import Mode
from sottovoce.client.request import Request
from sottovoce.client.taxonomy import sensitive


def serving(request: Request, consent: Consent, controls: Controls | None = None) -> tuple[Mode, str]:
    """What may choose the ad, and why: the person's history, the page alone, or nothing."""
    if not consent.serve_contextual:
        return "none", "; ".join(consent.notes)
    if not consent.serve_personalised:
        return "contextual", "; ".join(consent.notes)
    if controls is not None and controls.paused:
        return "contextual", "the person paused personalisation"
    if request.restriction:
        return "contextual", request.restriction
    for category, cattax in sorted(request.publisher.categories):
        if sensitive((category,), cattax):
            return "contextual", f"the page's category {category} (cattax {cattax}) is sensitive or unknown"
    return "personalised", "; ".join(consent.notes)
