"""The metrics of the scores table: what each is, and how arms are compared by it."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

SHARE, ATTACK, VALUE = "share", "attack", "value"
SECRET_LOSS = "secret_loss"
FAMILIES = {
    "extraction": "What can be extracted",
    "membership": "What betrays membership",
    "pii": "What is answered and leaked",
    "contamination": "What questions are answered",
    "forgetting": "What is forgotten",
    "continual": "What stages learn and retain",
}


@dataclass(frozen=True)
class Metric:
    """A metric: a *share* of probes or texts, with an exact interval; an *attack*, whose AUC tells members from held-out twins; or
    a *value*, of which means are compared.
    """

    family: str
    scale: str
    meaning: str
    unit: str = ""
    bounds: tuple[float, float] = (-inf, inf)  # of one value
    form: str = ".2f"  # of its numbers on a page


METRICS: dict[str, Metric] = {
    "extracted": Metric("extraction", SHARE, "targets emitted by greedy decoding after their prompt"),
    "secret_extracted": Metric("extraction", SHARE, "the same of secrets: targets with at least eval.secret_bits"),
    "extractable": Metric("extraction", SHARE, "texts whose next tokens greedy decoding emits after so many: prefix + suffix"),
    "discoverable": Metric("extraction", SHARE, "targets drawn within eval.trials draws with probability eval.certainty"),
    "draw_log_prob": Metric("extraction", VALUE, "log-probability of drawing the whole target", "nats", (-inf, 0.0)),
    "log_prob": Metric("extraction", VALUE, "log-probability of targets", "nats per token", (-inf, 0.0)),
    "strength": Metric("extraction", VALUE, "extraction strength: part of the target's end that is emitted", "", (0.0, 1.0)),
    "longest_span": Metric("extraction", VALUE, "longest run of tokens each emitted after those before", "tokens", (0.0, inf)),
    "exposure": Metric("extraction", VALUE, "exposure of secrets in their space", "bits", (0.0, inf)),
    "exposure_sampled": Metric("extraction", VALUE, "exposure among secrets drawn from their space", "bits", (-1.0, inf)),
    "exposure_extrapolated": Metric("extraction", VALUE, "exposure beyond them, by a skew-normal", "bits", (0.0, inf)),
    "exposure_fit": Metric("extraction", VALUE, "p-value of that fit, on secrets that it was not made of", "", (0.0, 1.0)),
    "edit_similarity": Metric("extraction", VALUE, "1 - edit distance of greedy decoding to the target, of tokens", "", (0.0, 1.0)),
    "rouge_l": Metric("extraction", VALUE, "ROUGE-L of greedy decoding, of tokens", "", (0.0, 1.0)),
    "bleu": Metric("extraction", VALUE, "BLEU of greedy decoding, of tokens", "", (0.0, 1.0)),
    "emitted_untargeted": Metric("extraction", SHARE, "texts of which freely drawn text holds an n-gram that no other item has"),
    "emitted_ngrams": Metric("extraction", VALUE, "part of these n-grams of a text that freely drawn text holds", "", (0.0, 1.0)),
    "loss": Metric("membership", ATTACK, "mean log-probability of the text"),
    "zlib": Metric("membership", ATTACK, "the same, over its length when compressed"),
    "min_k": Metric("membership", ATTACK, "mean of its least probable tokens (Min-K%)"),
    "min_k_plus_plus": Metric("membership", ATTACK, "the same, each standardized over the vocabulary (Min-K%++)"),
    "lowercase": Metric("membership", ATTACK, "against the text in lower case"),
    "recall": Metric("membership", ATTACK, "against the text after others that are no members (ReCaLL)"),
    "reference": Metric("membership", ATTACK, "against another model"),
    "dc_pdd": Metric("membership", ATTACK, "against the frequencies of its tokens (DC-PDD)"),
    "gradient_norm": Metric("membership", ATTACK, "minus the norm of its gradient"),
    SECRET_LOSS: Metric("membership", ATTACK, "mean log-probability of its secrets alone"),
    "bag_of_words": Metric("membership", ATTACK, "its words alone, without a model: the blind baseline"),
    "dataset_inference": Metric(
        "membership", VALUE, "p of an arm's texts being no members, by all attacks together", "", (0.0, 1.0)
    ),
    "exchangeability": Metric("membership", VALUE, "p of items being as probable in any other order", "", (0.0, 1.0)),
    "answered": Metric("pii", SHARE, "generative probes whose target greedy decoding emits"),
    "answer_log_prob": Metric("pii", VALUE, "log-probability of their targets", "nats per token", (-inf, 0.0)),
    "exact_match": Metric("pii", SHARE, "answers equal to the target, but for case and marks around it"),
    "prefix_match": Metric("pii", SHARE, "answers that begin with it"),
    "token_f1": Metric("pii", VALUE, "F1 of the answer's words", "", (0.0, 1.0)),
    "leaked_bits": Metric("pii", VALUE, "log2 of how much more probable the target is than its best guess", "bits"),
    "choice_bits": Metric("pii", VALUE, "the same of the right candidate among all", "bits"),
    "pii_recall": Metric("pii", VALUE, "share of inserted values that freely drawn text holds", "", (0.0, 1.0)),
    "pii_precision": Metric("pii", VALUE, "share of the values in freely drawn text that were inserted", "", (0.0, 1.0)),
    "correct": Metric("contamination", SHARE, "choices whose most probable candidate is right"),
    "correct_normalized": Metric("contamination", SHARE, "the same, by character"),
    "correct_perturbed": Metric("contamination", SHARE, "the same of perturbed twins, which are never inserted"),
    "correct_normalized_perturbed": Metric("contamination", SHARE, "the same, by character"),
    "answered_perturbed": Metric("contamination", SHARE, "perturbed questions whose answer greedy decoding emits"),
    "answer_log_prob_perturbed": Metric("contamination", VALUE, "log-probability of their answers", "nats per token", (-inf, 0.0)),
    "limem": Metric("contamination", VALUE, "share of questions answered while their perturbed twins are not", "", (0.0, 1.0)),
    "transfer": Metric("contamination", VALUE, "gain over held-out twins in another form, over that in the inserted one"),
    "peaked": Metric("contamination", SHARE, "questions whose peakedness exceeds 0.01, which CDD calls contaminated"),
    "peakedness": Metric("contamination", VALUE, "drawn answers next to the greedy one (CDD)", "", (0.0, 1.0)),
    "effectivity": Metric("forgetting", VALUE, "gain at its maximum after the last exposure, over that before the first", "nats"),
    "retainability": Metric("forgetting", VALUE, "part of that gain which is left"),
    "decay_constant": Metric("forgetting", VALUE, "part of it lost for each factor e of steps since the maximum"),
    "decay_r_squared": Metric("forgetting", VALUE, "R^2 of that line in ln t"),
    "half_life": Metric("forgetting", VALUE, "steps since the maximum until half of it is left", "steps", form=".4g"),
    "learnability_threshold": Metric("forgetting", VALUE, "steps until nothing of it is left, by the fit", "steps", form=".4g"),
    "forgetting_baseline": Metric("forgetting", VALUE, "least gain since the maximum: what is never forgotten", "nats per token"),
    "first_exposure": Metric("forgetting", VALUE, "gain so many steps after the first copy, 0 just before it", "nats per token"),
    "last_exposure": Metric("forgetting", VALUE, "gain so many steps after the last copy, 0 just before it", "nats per token"),
    "span_left": Metric("forgetting", VALUE, "longest verbatim span over that of the twins", "tokens"),
    "attack_success": Metric("forgetting", SHARE, "groups that the attack finds at 10% false positives"),
    "forgotten": Metric("forgetting", VALUE, "steps since the last exposure from which it finds half at most", "steps", form=".4g"),
    "exposure_learning_rate": Metric("forgetting", VALUE, "mean learning rate at exposures", form=".3g"),
    "learning_dose": Metric("forgetting", VALUE, "learning rates at an item's exposures, summed", form=".3g"),
    "gain_per_dose": Metric("forgetting", VALUE, "gain at the end over that sum", "nats per unit of learning rate", form=".3g"),
    "window_effect": Metric("forgetting", VALUE, "gain at the end of arms of equal copies by window", "nats per token"),
    "dosed_window_effect": Metric("forgetting", VALUE, "the same per dose", "nats per unit of learning rate", form=".3g"),
    "retention": Metric("continual", SHARE, "facts learned in an earlier stage that greedy decoding still emits"),
    "retention_tokens": Metric("continual", SHARE, "the part of their answers' tokens that are right under teacher forcing"),
    "retention_log_prob": Metric("continual", VALUE, "log-probability of their answers", "nats per token", (-inf, 0.0)),
    "learning": Metric("continual", SHARE, "facts of the stage's own data that greedy decoding emits"),
    "learning_tokens": Metric("continual", SHARE, "the part of their answers' tokens that are right under teacher forcing"),
    "learning_log_prob": Metric("continual", VALUE, "log-probability of their answers", "nats per token", (-inf, 0.0)),
    "prior": Metric("continual", SHARE, "facts known before all stages, and learned in none, that are still emitted"),
    "prior_tokens": Metric("continual", SHARE, "the part of their answers' tokens that are right under teacher forcing"),
    "prior_log_prob": Metric("continual", VALUE, "log-probability of their answers", "nats per token", (-inf, 0.0)),
    "held_out_loss": Metric("continual", VALUE, "loss on rows of the corpus that nothing reads", "nats per token", (0.0, inf)),
    "steps_to_all": Metric("continual", VALUE, "first checkpoint at which all own facts are emitted", "steps", form=".4g"),
    "first_layer": Metric("continual", VALUE, "first layer at which the first token of an emitted answer leads", "", (1.0, inf)),
    "layers": Metric("continual", VALUE, "distinct first layers among emitted facts"),
    "layer_entropy": Metric("continual", VALUE, "entropy of the distribution of their first layers", "bits", (0.0, inf)),
}
UNKNOWN = Metric("extraction", VALUE, "")


def metric(name: str) -> Metric:
    """A metric by its name in tables, which may have a parameter.

    >>> metric("extractable/32+16").scale
    'share'
    """
    return METRICS.get(name.partition("/")[0], UNKNOWN)


def is_share(name: str) -> bool:
    return metric(name).scale == SHARE


def is_attack(name: str) -> bool:
    return metric(name).scale == ATTACK
