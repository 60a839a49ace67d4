"""Why a site is missing, in words: the codes in a run's records as sentences for people."""

from medseg_core.wire.codes import SENTENCES

_OURS = {  # of the coordinator: what it found, or did not get
    "not_connected": "The site was not connected. Ask whether medseg-site up runs there.",
    "not_enrolled": "The site is not enrolled. Enrol it, or leave it out of the experiment.",
    "site_process_failed": "A process of the site failed. The site's log names the fault.",
    "bad_count": "The site counts other cases than it described. Ask it whether its data changed.",
    "bad_score": "The site's scores are incomplete or impossible. Compare versions.",
    "missing_tensor": "The update lacks a tensor of the model. Compare versions.",
    "extra_tensor": "The update holds a tensor that the model has not. Compare versions.",
    "wrong_shape": "A tensor of the update has another shape. Compare versions.",
    "wrong_dtype": "A tensor of the update is of another type. Compare versions.",
    "not_finite": "The update holds numbers that are not finite. Lower the learning rate.",
    "norm_exceeded": "The update is larger than max_update_norm. Lower the learning rate, or raise the bound.",
    "overflow": "The update holds numbers too large to be added. Lower the learning rate.",
    "repeated_site": "The site had contributed before. Nothing needs to be done.",
    "missing_figure": "The site does not tell a figure that the experiment weighs sites by. Its policy may keep it.",
    "corrupt_payload": "The update could not be read. Send it again.",
}
_SENTENCES = {**{str(code): text for code, text in SENTENCES.items()}, **_OURS}


def reason(code: str) -> str:
    """What happened, for the middle of a sentence; a text that is no code stays as it is."""
    found = _SENTENCES.get(code, code).split(". ")[0]
    return found[:1].lower() + found[1:] if code in _SENTENCES else found


def remedy(code: str) -> str:
    """What to do about it; empty for a text that is no code."""
    return _SENTENCES[code].split(". ", 1)[1] if code in _SENTENCES else ""
