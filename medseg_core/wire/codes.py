"""Why a request was refused: a code and one fixed sentence. No other text about a fault leaves a site."""

from enum import StrEnum


class RefusalCode(StrEnum):
    """All that one side may tell the other about what went wrong."""

    MALFORMED = "malformed"
    TOO_LARGE = "too_large"
    WIRE_VERSION = "wire_version"
    BAD_SIGNATURE = "bad_signature"
    UNKNOWN_RUN = "unknown_run"
    FOREIGN_SITE = "foreign_site"
    STALE_ROUND = "stale_round"
    REPEATED = "repeated"
    CONFLICTING_REQUEST = "conflicting_request"
    UNKNOWN_EXPERIMENT = "unknown_experiment"
    MODEL_TOO_LARGE = "model_too_large"
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    BUDGET_SPENT = "budget_spent"
    TOO_FEW_PATIENTS = "too_few_patients"
    NOT_RELEASED = "not_released"
    DATA_FAULT = "data_fault"
    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    DEADLINE = "deadline"
    TRAINER_AWAY = "trainer_away"
    WORKING = "working"
    MODEL_NOT_HELD = "model_not_held"
    INTERNAL = "internal"


SENTENCES: dict[RefusalCode, str] = {
    RefusalCode.MALFORMED: "The message is not a readable envelope. Send it again, then compare versions.",
    RefusalCode.TOO_LARGE: "The message is larger than the receiver accepts. Use a smaller model.",
    RefusalCode.WIRE_VERSION: "The message has another wire version. Install the same release on both sides.",
    RefusalCode.BAD_SIGNATURE: "The signature does not belong to the known key. Enrol the sender again.",
    RefusalCode.UNKNOWN_RUN: "The run is not known here. Check which run the site has joined.",
    RefusalCode.FOREIGN_SITE: "The message is meant for, or comes from, another site. Check the site's name.",
    RefusalCode.STALE_ROUND: "The round is already over. Nothing needs to be done; the next round follows.",
    RefusalCode.REPEATED: "The message was received before and counts once. Nothing needs to be done.",
    RefusalCode.CONFLICTING_REQUEST: "Another request for this attempt came before. Start a new attempt.",
    RefusalCode.UNKNOWN_EXPERIMENT: "The site has not approved this experiment. Ask the site to approve it.",
    RefusalCode.MODEL_TOO_LARGE: "The model is larger than the site's policy allows. Choose a smaller model.",
    RefusalCode.ALGORITHM_NOT_ALLOWED: "The site's policy refuses the algorithm or network. Change it.",
    RefusalCode.BUDGET_SPENT: "The site's budget of requests is spent. Ask it to raise the budget.",
    RefusalCode.TOO_FEW_PATIENTS: "The site has too few patients for its policy. It cannot take part.",
    RefusalCode.NOT_RELEASED: "The site's policy keeps these figures. Ask the site, or go on without them.",
    RefusalCode.DATA_FAULT: "The site's data cannot be used as they are. The site's log names the fault.",
    RefusalCode.OUT_OF_MEMORY: "The site's device has too little memory. Lower batch size or patch size.",
    RefusalCode.DIVERGED: "The site's training ended in numbers that are not finite. Lower the learning rate.",
    RefusalCode.DEADLINE: "The work was not done before the deadline. Raise it, or look at the site's load.",
    RefusalCode.TRAINER_AWAY: "The site's trainer does not answer. The site starts it again.",
    RefusalCode.WORKING: "The site is at work on this very request. Ask again; it trains once.",
    RefusalCode.MODEL_NOT_HELD: "The site does not hold the model that the step starts from. Send it the whole model.",
    RefusalCode.INTERNAL: "The site met an unexpected fault. The site's log names it.",
}
