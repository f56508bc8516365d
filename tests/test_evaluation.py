"Figures against scikit-learn and against counting by hand; every form of a model; the command."

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("sklearn", reason="evaluation needs the [train] extra")
pytest.importorskip("fastai", reason="evaluation needs the [train] extra")

from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn import metrics
from typer.testing import CliRunner

from fer_nb import calibration
from fer_nb.calibration import (
    abstention_threshold,
    cross_fit_abstention,
    cross_fit_calibration,
    ece_null,
    fit_temperature,
    stratified_folds,
)
from fer_nb.commands.training import print_evaluations
from fer_nb.core import (
    EMOTIONS,
    MODELS,
    DatasetError,
    ModelError,
    available_models,
    file_hash,
    load_peers,
    model_info,
    models_dir,
)
from fer_nb.data.dataset import FaceDataset, ReadIssue, Split
from fer_nb.data.synthetic import draw_face, synthetic_dataset, synthetic_faces
from fer_nb.evaluation import results
from fer_nb.evaluation.cards import (
    MANUAL_MARKERS,
    card_front_matter,
    hub_card,
    model_card,
    train_command,
    write_cards,
)
from fer_nb.evaluation.ensemble import (
    cross_fit_ensemble,
    ensemble,
    ensemble_temperature,
    fit_ensemble,
    fit_ensemble_weights,
)
from fer_nb.evaluation.evaluate import (
    Evaluation,
    compare,
    dataset_notes,
    default_split,
    evaluate,
    load_predictor,
    predict_proba,
    select_split,
)
from fer_nb.evaluation.label_noise import (
    cross_val_predict,
    label_issues,
    label_noise_ceiling,
    near_duplicates,
    nearest_hash,
)
from fer_nb.evaluation.results import evaluate_all, metrics_row, published_table, results_table, write_results
from fer_nb.evaluation.robustness import (
    CORRUPTIONS,
    PERTURBATIONS,
    accuracy_curves,
    corruption_metrics,
    robustness,
    stability,
    stratified_subset,
)
from fer_nb.export import add_calibration, calibrate, export, onnx_predict, quantize_int8, write_calibrated
from fer_nb.inference import EmotionRecognizer
from fer_nb.metrics import (
    METRICS,
    Metric,
    bootstrap_ci,
    compute_metrics,
    confusion_counts,
    ece,
    ece_from_bins,
    log_probs,
    mcnemar,
    nll,
    one_vs_rest_auc,
    per_class_scores,
    risk_coverage,
    summary_scores,
    worst_classes,
)
from fer_nb.model_api import load_checkpoint, model_recipe
from fer_nb.plots import plot_robustness, plot_roc_pr
from fer_nb.prior import adapt_prior, estimate_prior, reference_prior
from fer_nb.recipe import override
from fer_nb.runtime import apply_temperature, tta_views

QUICK = min(available_models(), key=lambda m: model_info(m).default_size)
TWO = [QUICK, next(m for m in MODELS if m != QUICK)]
CONTRACT = ["model", "split", "n", "accuracy", "accuracy_ci95", "macro_f1", "weighted_f1", "ece", "nll", "per_class",
            "without_exact_duplicates", "notes"]


def guesses(n=400, seed=0, skill=1.5):
    "Labels, and probabilities that are better than chance."
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.arange(7), rng.choice(7, n - 7, p=[0.13, 0.02, 0.14, 0.25, 0.17, 0.18, 0.11])])
    logits = rng.normal(size=(n, 7)) + skill * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def made_up(probs, labels, **more):
    return Evaluation("made up", "PublicTest", labels, probs, **more)


@pytest.fixture(scope="module")
def data():
    return synthetic_dataset(140, seed=5)


# figures


def test_every_figure_is_scikit_learns():
    probs, labels = guesses()
    e, predictions = made_up(probs, labels), probs.argmax(1)
    figures = e.to_dict()
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, predictions))
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(labels, predictions, average="macro"))
    assert figures["weighted_f1"] == pytest.approx(metrics.f1_score(labels, predictions, average="weighted"))
    assert figures["nll"] == pytest.approx(-np.log(probs[np.arange(400), labels]).mean())
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, predictions, zero_division=0)
    for i, emotion in enumerate(EMOTIONS):
        expected = dict(accuracy=recall[i], precision=precision[i], recall=recall[i], f1=f1[i], support=support[i])
        assert figures["per_class"][emotion] == pytest.approx(expected)
    two = np.argsort(-probs)[:, :2]
    assert e.metrics["top2"] == pytest.approx((two == labels[:, None]).any(1).mean())
    assert np.allclose(e.normalized_confusion, metrics.confusion_matrix(labels, predictions, normalize="true"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_scores_of_any_predictions(pairs):
    labels, predictions = np.array(pairs).T
    matrix, present = confusion_counts(labels, predictions), np.unique(labels)
    assert (matrix == metrics.confusion_matrix(labels, predictions, labels=range(7))).all()
    scores = per_class_scores(matrix)
    theirs = metrics.precision_recall_fscore_support(labels, predictions, labels=present, zero_division=0)
    for k, name in enumerate(("precision", "recall", "f1")):
        assert np.allclose(scores[name][present], theirs[k])
        assert np.isnan(np.delete(scores[name], present)).all()
    macro = metrics.f1_score(labels, predictions, labels=present, average="macro", zero_division=0)
    assert summary_scores(matrix)["macro_f1"] == pytest.approx(macro)
    worst = worst_classes(matrix, n=7)
    assert [score for _, score, *_ in worst] == sorted(scores["f1"][present])


def test_a_new_metric_is_one_row(monkeypatch):
    brier = Metric("Brier score", lambda probs, y: float(((probs - np.eye(7)[y]) ** 2).sum(1).mean()), "{:.2f}", True)
    monkeypatch.setitem(METRICS, "brier", brier)
    e = made_up(*guesses())
    assert compute_metrics(e.probabilities, e.labels)["brier"] == e.metrics["brier"] == metrics_row(e, None)["brier"]
    assert "Brier score" in str(e) and "Brier score" in compare([e, e])
    assert list(e.to_dict()) == CONTRACT  # what programs read is another promise


def test_intervals_hold_the_truth_in_95_of_100_test_sets():
    rng, truth, hits = np.random.default_rng(0), 0.7, 0
    for _ in range(300):
        right = rng.random(400) < truth
        low, high = bootstrap_ci(confusion_counts(np.full(400, 3), np.where(right, 3, 4)), rounds=500)["accuracy"]
        hits += low <= truth <= high
    assert 0.91 < hits / 300 < 0.98


def test_intervals_of_macro_f1_are_those_of_drawing_images():
    probs, labels = guesses()
    said, rng = probs.argmax(1), np.random.default_rng(1)
    slow = []
    for _ in range(400):
        i = rng.integers(0, len(labels), len(labels))
        slow.append(metrics.f1_score(labels[i], said[i], average="macro", labels=np.unique(labels[i])))
    quick = bootstrap_ci(confusion_counts(labels, said))["macro_f1"]
    assert quick == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.015)


def test_one_vs_rest_is_scikit_learns():
    probs, labels = guesses()
    table = one_vs_rest_auc(probs, labels)
    auc = metrics.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert np.mean([row["auc"] for row in table.values()]) == pytest.approx(auc)
    three = one_vs_rest_auc(probs[:3], np.array([3, 3, 3]))
    assert set(v for row in three.values() for v in row.values()) == {None}
    assert [*one_vs_rest_auc(np.eye(2), np.array([0, 1]), ("sad", "happy"))] == ["sad", "happy"]


def test_the_worst_classes_are_named_from_their_label_set():
    assert worst_classes([[1, 3], [0, 4]], 1, emotions=("sad", "happy")) == [("sad", 0.4, "happy", 0.75)]


def test_top_losses_come_first():
    probs = np.full((4, 7), 0.01)
    probs[np.arange(4), [0, 1, 2, 3]] = 0.94, 0.5, 0.8, 0.9
    worst = made_up(probs, np.array([0, 0, 0, 0])).top_losses()
    assert worst.tolist() == [3, 2, 1]


# missing emotions


def test_an_absent_emotion_is_neither_a_zero_nor_a_crash(data):
    some = data["PublicTest"][data["PublicTest"].labels != 1]
    e = evaluate(QUICK, FaceDataset("mine", {"PublicTest": some}))
    figures = json.loads(json.dumps(e.to_dict()))
    assert figures["per_class"]["disgust"] == dict(accuracy=None, precision=None, recall=None, f1=None, support=0)
    scores = [row["f1"] for row in figures["per_class"].values() if row["support"]]
    assert figures["macro_f1"] == pytest.approx(np.mean(scores)) and len(scores) == 6
    assert "no image of disgust" in str(e) and figures["without_exact_duplicates"] is None
    assert json.dumps(metrics_row(e, None))
    plot_roc_pr(e.probabilities, e.labels)


def test_one_image_can_be_evaluated(data):
    one = FaceDataset("mine", {"PublicTest": data["PublicTest"][:1]})
    assert json.dumps(metrics_row(evaluate(QUICK, one), None))


# calibration and abstaining


def test_ece_of_calibrated_and_of_overconfident_predictions():
    rng = np.random.default_rng(0)
    sure = rng.uniform(1 / 7, 1, 20000)
    probs = np.c_[sure, np.repeat((1 - sure)[:, None] / 6, 6, 1)]
    labels = np.where(rng.random(20000) < sure, 0, 1 + rng.integers(0, 6, 20000))
    assert ece(probs, labels) < 0.01
    overconfident = np.eye(7)[np.zeros(20000, int)]
    assert ece(overconfident, labels) == pytest.approx(1 - (labels == 0).mean())


def test_ece_null_is_what_a_perfect_network_shows():
    probs, _ = guesses(2000)
    mean, most = ece_null(probs)
    rng, shown = np.random.default_rng(7), []
    for _ in range(200):
        labels = (rng.random((2000, 1)) > probs.cumsum(1)).sum(1)
        shown.append(ece(probs, labels))
    assert mean == pytest.approx(np.mean(shown), rel=0.1) and 0.85 < (np.array(shown) <= most).mean() < 0.99


def test_ece_counted_by_hand():
    probs, labels = guesses(50)
    sure, right, total = probs.max(1), probs.argmax(1) == labels, 0
    for b in range(15):
        inside = [i for i in range(50) if b / 15 < sure[i] <= (b + 1) / 15]
        if inside:
            total += len(inside) / 50 * abs(right[inside].mean() - sure[inside].mean())
    assert ece(probs, labels) == pytest.approx(total)


def test_calibration_is_never_fitted_on_the_image_it_is_applied_to(monkeypatch):
    probs, labels = guesses()
    seen, halves = [], torch.tensor([[0.5] * 7, [0.0] * 7])

    def fit(logits, labels, one_temperature):
        seen.append({row.tobytes() for row in logits})
        return halves

    monkeypatch.setattr(calibration, "fit_vector_scaling", fit)
    cooled = cross_fit_calibration(probs, labels)
    rows = [row.tobytes() for row in log_probs(probs)]
    left_out = np.array([[row not in call for call in seen] for row in rows])
    assert left_out.shape == (400, 5) and (left_out.sum(1) == 1).all()
    assert (left_out.argmax(1) == stratified_folds(labels)).all()
    assert np.allclose(cooled, probs**0.5 / (probs**0.5).sum(1, keepdims=True))


def test_an_overconfident_network_is_repaired():
    probs, labels = guesses(2000)
    overconfident = probs**3 / (probs**3).sum(1, keepdims=True)
    before, after = (ece(p, labels) for p in (overconfident, cross_fit_calibration(overconfident, labels)))
    assert after < 0.05 < 0.1 < before


@settings(max_examples=50, deadline=None)
@given(st.floats(0.34, 3), st.integers(0, 1000))
def test_a_temperature_changes_no_prediction_and_can_be_undone(temperature, seed):
    probs, _ = guesses(20, seed)
    scaled = apply_temperature(probs, temperature)
    assert np.allclose(scaled.sum(1), 1) and (scaled.argmax(1) == probs.argmax(1)).all()
    assert np.allclose(apply_temperature(scaled, 1 / temperature), probs)


def test_a_fitted_temperature_undoes_a_known_one():
    probs, _ = guesses(4000)
    labels = (np.random.default_rng(1).random((4000, 1)) > probs.cumsum(1)).sum(1)  # calibrated by construction
    for known in (0.5, 1.0, 2.0):
        assert fit_temperature(apply_temperature(probs, known), labels) == pytest.approx(1 / known, rel=0.06)


def test_class_frequencies_are_found_without_labels():
    rng, old = np.random.default_rng(0), np.array([0.13, 0.02, 0.14, 0.25, 0.17, 0.18, 0.11])
    new = np.array([0.05, 0.01, 0.04, 0.10, 0.65, 0.10, 0.05])
    labels = rng.choice(7, 4000, p=new)
    x = rng.normal(size=(4000, 7)) + 1.7 * np.eye(7)[labels]
    likelihood = np.exp(1.7 * x)  # of a shifted normal against one that is not
    probs = likelihood * old / (likelihood * old).sum(1, keepdims=True)
    found = estimate_prior(probs, old, strength=7.0, tolerance=1e-6)
    assert np.abs(found - new).max() < 0.03 and found.sum() == pytest.approx(1)
    accuracy = [(p.argmax(1) == labels).mean() for p in (probs, adapt_prior(probs, found, old))]
    assert accuracy[1] > accuracy[0] + 0.02
    assert np.allclose(adapt_prior(adapt_prior(probs, found, old), old, found), probs)
    assert np.allclose(estimate_prior(probs[:0], old), old)


def test_folds_share_every_emotion_evenly():
    _, labels = guesses()
    fold = stratified_folds(labels)
    for emotion in range(7):
        n = np.bincount(fold[labels == emotion], minlength=5)
        assert n.max() - n.min() <= 1
    assert (fold == stratified_folds(labels)).all()


def test_the_threshold_keeps_what_it_promises():
    probs, labels = guesses(2000)
    limit = abstention_threshold(probs, labels, 0.9)
    sure, right = probs.max(1), probs.argmax(1) == labels
    assert right[sure >= limit].mean() >= 0.9
    assert all(right[sure >= lower].mean() < 0.9 for lower in sure[sure < limit])
    kept = cross_fit_abstention(probs, labels, 0.9)
    assert 0.86 < right[kept].mean() < 0.94 and abs(kept.mean() - (sure >= limit).mean()) < 0.1
    assert abstention_threshold(probs, (probs.argmax(1) + 1) % 7) == 1.0
    assert abstention_threshold(probs, probs.argmax(1)) == sure.min()


def test_area_under_risk_coverage_is_least_for_the_best_order():
    right = np.array([True] * 6 + [False] * 4)
    labels = np.where(right, 0, 1)
    probs = lambda sure: np.c_[sure, 1 - sure, np.zeros((10, 5))]  # noqa: E731
    sure = np.linspace(0.95, 0.55, 10)
    best, worst = (risk_coverage(probs(s), labels)[1].mean() for s in (sure, sure[::-1]))
    assert best == pytest.approx((1 / 7 + 2 / 8 + 3 / 9 + 4 / 10) / 10) and worst > best


# duplicates


def test_exact_duplicates_are_found_and_left_out(data):
    train, public = data["Training"], data["PublicTest"]
    mixed = Split(np.r_[public.images, train.images[:9]], np.r_[public.labels, train.labels[:9]],
                 np.r_[public.paths, train.paths[:9]])
    e = evaluate(QUICK, FaceDataset("mine", {"Training": train, "PublicTest": mixed}))
    assert e.is_duplicate.sum() == 9 and e.to_dict()["without_exact_duplicates"]["n"] == len(public)
    alone = evaluate(QUICK, data)
    assert e.to_dict()["without_exact_duplicates"]["accuracy"] == pytest.approx(alone.metrics["accuracy"])
    assert e.to_dict()["without_exact_duplicates"]["macro_f1"] == pytest.approx(alone.metrics["macro_f1"])


def test_a_split_of_duplicates_only_has_no_figures_without_them(data):
    train = data["Training"]
    e = evaluate(QUICK, FaceDataset("mine", {"Training": train, "PublicTest": train[:20]}))
    assert e.to_dict()["without_exact_duplicates"] is None


def test_near_duplicates_survive_what_the_web_does_to_a_picture():
    faces = synthetic_faces(60, seed=3).images
    brighter = (faces * 0.8 + 30).astype(np.uint8)
    marked = faces.copy()
    marked[:, 40:44, 10:30] = 200
    for changed in (faces, brighter, marked):
        assert near_duplicates(changed, faces).mean() > 0.9
    others = synthetic_faces(60, seed=4).images
    assert near_duplicates(others, faces).mean() < 0.1
    assert near_duplicates(faces[:0], faces).tolist() == []


def test_nearest_is_the_smallest_hamming_distance():
    rng = np.random.default_rng(0)
    a, b = rng.random((300, 256)) < 0.5, rng.random((40, 256)) < 0.5
    distances = (a[:, None] != b[None]).sum(-1)
    found, which = nearest_hash(a, b)
    assert (found == distances.min(1)).all() and (distances[np.arange(300), which] == found).all()


# several models


def test_mcnemar_is_the_binomial_test():
    labels = np.zeros(40, int)
    a, b = np.eye(7)[labels], np.eye(7)[labels]
    a[:3], b[3:13] = np.eye(7)[1], np.eye(7)[1]
    from scipy.stats import binom

    assert mcnemar(made_up(a, labels).correct, made_up(b, labels).correct) == pytest.approx(2 * binom.cdf(3, 13, 0.5))


def test_an_ensemble_is_the_mean_and_needs_the_same_images():
    probs, labels = guesses()
    other, _ = guesses(seed=1)
    both = ensemble([made_up(probs, labels), made_up(other, labels)])
    assert np.allclose(both.probabilities, (probs + other) / 2)
    with pytest.raises(DatasetError, match="different images"):
        ensemble([made_up(probs, labels), made_up(other, labels)[:9]])


def test_weights_of_an_ensemble_make_the_labels_likeliest():
    labels = guesses(n=120)[1]
    few = [guesses(n=120, seed=s)[0] ** 0.5 + skill * np.eye(7)[labels] for s, skill in enumerate((0.2, 0.5, 0.3))]
    few = [probs / probs.sum(1, keepdims=True) for probs in few]
    each = [made_up(probs, labels) for probs in few]
    weights = fit_ensemble_weights(each)

    def loss(w):
        return ensemble(each, w).metrics["nll"]

    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    for i in range(3):
        for step in (0.02, -0.02):
            w = weights.copy()
            w[i] = max(w[i] + step, 0)
            assert loss(weights) <= loss(w / w.sum()) + 1e-9
    fold = stratified_folds(labels)
    apart, temperature = fit_ensemble([e[fold != 3] for e in each])
    mean = np.tensordot(apart, np.stack(few)[:, fold == 3], 1)
    assert np.allclose(cross_fit_ensemble(each).probabilities[fold == 3], apply_temperature(mean, temperature))


def test_the_temperature_of_an_ensemble_makes_the_labels_likeliest():
    labels = guesses(n=400)[1]
    each = []
    for seed in range(3):  # calibrated members: the label is drawn from the probabilities that all share, with noise
        rng = np.random.default_rng(seed)
        logits = np.eye(7)[labels] + rng.normal(size=(400, 7))
        each.append(made_up(softmax(logits, axis=1), labels))
    weights, temperature = fit_ensemble(each)
    assert np.allclose(weights, fit_ensemble_weights(each))
    mean = ensemble(each, weights).probabilities
    at = {t: nll(apply_temperature(mean, t), labels) for t in (temperature, 0.9 * temperature, 1.1 * temperature, 1)}
    assert temperature < 1 and min(at, key=at.get) == temperature
    whole = ensemble(each, weights, temperature)
    assert np.allclose(whole.probabilities, softmax(np.log(mean) / temperature, axis=1))
    assert (whole.predictions == mean.argmax(1)).all()
    other = cross_fit_ensemble([e[::-1] for e in each], [e[::-1] for e in each])
    assert np.allclose(other.probabilities, cross_fit_ensemble([e[::-1] for e in each]).probabilities)


def test_the_kept_temperature_is_that_of_all_models_together(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    assert ensemble_temperature(TWO) == 1.0
    (tmp_path / "results.json").write_text(json.dumps(dict(weights=dict.fromkeys(TWO, 0.5), ensemble_temperature=0.8)))
    assert ensemble_temperature(TWO) == ensemble_temperature(TWO[::-1]) == 0.8
    assert ensemble_temperature(TWO[:1]) == ensemble_temperature([*TWO, "another"]) == 1.0
    probs, labels = guesses()
    pair = [Evaluation(m, "PublicTest", labels, probs) for m in TWO]
    assert np.allclose(ensemble(pair).probabilities, apply_temperature(probs, 0.8))
    assert np.allclose(ensemble(pair, [0.5, 0.5]).probabilities, probs)


# label noise


def test_the_ceiling_is_what_the_best_guesser_reaches():
    rng = np.random.default_rng(0)
    labels, group = rng.integers(0, 7, 200), rng.integers(0, 60, 200)
    best = sum(np.bincount(labels[group == g]).max() for g in np.unique(group))
    assert label_noise_ceiling(labels, group) == pytest.approx(best / 200)
    assert label_noise_ceiling(labels, np.arange(200)) == 1


def test_confident_learning_finds_exchanged_labels():
    probs, labels = guesses(2000, skill=5)
    corrupted = labels.copy()
    corrupted[:150] = (corrupted[:150] + 3) % 7
    checked = cross_val_predict(probs, corrupted)
    assert np.allclose(checked.sum(1), 1)
    issues = label_issues(checked, corrupted)
    assert issues[:150].mean() > 0.8 and issues[150:].mean() < 0.05


def test_errors_on_ambiguous_labels_are_counted():
    probs = np.eye(7)[[3, 3, 0, 0, 3]]
    labels = np.array([3, 3, 3, 3, 3])
    soft = np.zeros((5, 7), np.float32)
    soft[:, 3], soft[:, 4] = (0.9, 0.4, 0.4, 0.5, 1.0), (0.1, 0.6, 0.6, 0.5, 0.0)
    e = made_up(probs, labels, vote_shares=soft)
    assert e.ambiguous.tolist() == [False, True, True, False, False]  # just half is enough
    assert e.people() == pytest.approx(dict(images=2 / 5, errors=1 / 2, accuracy_of_others=2 / 3))
    assert e.to_dict()["ambiguous"] == e.people() and "40.0% of the images, 50.0% of the errors" in str(e)
    correct = e[e.correct]
    assert correct.people()["errors"] is None and "– of the errors" in str(correct)
    assert e[e.ambiguous].people()["accuracy_of_others"] is None


# corruptions


def test_corruptions_do_what_they_say():
    faces = synthetic_faces(12, seed=2).images
    gray = np.full((50, 48, 48), 128, np.uint8)
    turned = CORRUPTIONS["rotation"].apply(faces, 90)
    assert (turned[0] == np.rot90(faces[0])).all() and (turned[1] == np.rot90(faces[1], -1)).all()
    noise = CORRUPTIONS["noise"].apply(gray, 0.08).astype(float) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02) and abs(noise.mean()) < 0.5
    assert CORRUPTIONS["darkness"].apply(gray, 0.25).max() == 32
    for share in (0.1, 0.45):
        white = np.zeros((20, 48, 48), np.uint8)
        white[:, :24] = 255
        gone = CORRUPTIONS["occlusion"].apply(white, share)
        assert ((gone != 0) & (gone != 255)).mean((1, 2)) == pytest.approx(share, rel=0.05)
    small = CORRUPTIONS["small face"].apply(faces, 8)
    assert small.shape == faces.shape and np.abs(np.fft.fft2(small)[:, 10:38, 10:38]).mean() < 0.2 * np.abs(
        np.fft.fft2(faces)[:, 10:38, 10:38]).mean()
    assert CORRUPTIONS["JPEG"].apply(faces, 7).std() != faces.std()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_corruptions_grow_and_repeat(name):
    faces, corruption = synthetic_faces(20, seed=6).images, CORRUPTIONS[name]
    before, away = faces.copy(), []
    for strength in corruption.severities:
        corrupted = corruption.apply(faces, strength)
        assert corrupted.dtype == np.uint8 and (corrupted == corruption.apply(faces, strength)).all()
        away.append(np.abs(corrupted.astype(float) - faces).mean())
    assert (faces == before).all() and away == sorted(away) and len(away) == 6
    assert away[0] == 0 or (name == "JPEG" and away[0] < 1)
    assert corruption.apply(np.zeros((1, 60, 40), np.uint8), corruption.severities[2]).shape == (1, 60, 40)


def test_a_stratified_subset_has_every_emotion_in_its_share(data):
    part = synthetic_faces(700, seed=9)
    few = stratified_subset(part, 100)
    assert 90 < len(few) < 110 and (few.images == stratified_subset(part, 100).images).all()
    assert np.abs(np.array(list(few.counts.values())) - np.array(list(part.counts.values())) / 7).max() <= 1
    assert len(stratified_subset(part[:30], 100)) == 30


def test_robustness_is_evaluation_on_corrupted_images(data):
    part = data["PublicTest"]
    curves = robustness(QUICK, part)
    (none, as_it_is), *_, (light, dark) = curves["darkness (brightness factor)"]
    assert none == 1 and as_it_is == pytest.approx(evaluate(QUICK, data).metrics["accuracy"])
    corrupted = Split(CORRUPTIONS["darkness"].apply(part.images, light), part.labels, part.paths)
    assert dark == evaluate(QUICK, FaceDataset("dark", {"PublicTest": corrupted})).metrics["accuracy"]
    assert json.loads(json.dumps(curves)) == curves and [name.split(" (")[0] for name in curves] == list(CORRUPTIONS)
    panels = plot_robustness({"a": curves, "b": curves}).axes
    assert [panel.get_title() for panel in panels if panel.get_title()] == list(curves)


def test_corruption_metrics_are_those_of_evaluation(data):
    _, predict = load_predictor(QUICK)
    split = data["PublicTest"]
    figures = corruption_metrics(predict, split, threshold=0.5)
    assert accuracy_curves(figures) == robustness(QUICK, split)
    row = figures["JPEG (quality)"][3]
    corrupted = Split(CORRUPTIONS["JPEG"].apply(split.images, row["severity"]), split.labels, split.paths)
    e = evaluate(QUICK, FaceDataset("JPEG", {"PublicTest": corrupted}))
    kept = e.probabilities.max(1) >= 0.5
    assert row == pytest.approx(dict(severity=15, accuracy=e.metrics["accuracy"], ece=e.metrics["ece"],
                                     coverage=kept.mean(), selective_accuracy=e.correct[kept].mean()))


def test_stability_counts_changed_labels(data):
    faces = data["PublicTest"].images
    side = lambda faces: np.eye(7)[(faces[:, :, :24].mean((1, 2)) > faces[:, :, 24:].mean((1, 2))) * 3]  # noqa: E731
    lopsided = np.where(np.arange(48) < 24, 200, 50).astype(np.uint8) * np.ones((6, 48, 1), np.uint8)
    changed = stability(side, lopsided)
    assert changed["mirror"] == 1 and changed["shift by 1 px"] == changed["JPEG 90"] == changed["zoom by 4%"] == 0
    constant = stability(lambda faces: np.eye(7)[np.zeros(len(faces), int)], faces)
    assert set(constant) == set(PERTURBATIONS) and set(constant.values()) == {0.0}
    assert stability(load_predictor(QUICK)[1], faces, tta=True)["mirror"] == 0


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_perturbations_are_small(name):
    faces = synthetic_faces(20, seed=6).images
    before = faces.copy()
    for change in PERTURBATIONS[name]:
        changed = change(faces)
        assert changed.shape == faces.shape and changed.dtype == np.uint8 and (faces == before).all()
        assert 0 < np.abs(changed.astype(float) - faces).mean() < (60 if name == "mirror" else 25)


# models in all forms


@pytest.mark.parametrize("model", available_models())
def test_checkpoint_and_onnx_have_the_same_figures(model, data):
    few = FaceDataset("drawn", {"PublicTest": data["PublicTest"]}, synthetic=True)
    files = models_dir() / f"best_{model}.pth", models_dir() / f"{model}.onnx"
    torch, onnx = (evaluate(f, few) for f in files)
    assert np.abs(torch.probabilities - onnx.probabilities).max() < 1e-4
    assert (torch.model, onnx.model) == tuple(f.name for f in files)
    assert evaluate(model, few).model == model


def test_views_are_averaged(data):
    _, predict = load_predictor(QUICK)
    faces = data["PublicTest"].images[:20]
    mean = np.mean([predict(view) for view in tta_views(faces)], 0)
    assert np.abs(predict_proba(predict, faces, tta=True) - mean).max() < 1e-5
    turned = predict_proba(predict, np.ascontiguousarray(faces[:, :, ::-1]), tta=True)
    assert np.abs(turned - mean).max() < 1e-5


def test_what_is_no_model_is_said(tmp_path):
    for name in ("no.onnx", "no.pth"):
        with pytest.raises(ModelError):
            load_predictor(tmp_path / name)
        (tmp_path / name).write_text("not a model")
        with pytest.raises(ModelError):
            load_predictor(tmp_path / name)
    with pytest.raises(ModelError, match="custom_cnn"):
        load_predictor("custom_cn")


def test_splits(data):
    with pytest.raises(DatasetError, match="no PrivateTest, which 'test' needs"):
        select_split(data, "test")
    with pytest.raises(DatasetError, match="It has Training and PublicTest"):
        select_split(data, "Holiday")
    empty = FaceDataset("mine", {"PublicTest": data["PublicTest"][:0]})
    with pytest.raises(DatasetError, match="no image"):
        select_split(empty, "PublicTest")
    both = FaceDataset("mine", data.splits | {"PrivateTest": data["PublicTest"][:5]})
    faces, duplicate = select_split(both, "test")
    assert len(faces) == len(data["PublicTest"]) + 5 and len(duplicate) == len(faces)
    faces, duplicate = select_split(data, "all")
    assert len(faces) == 168 and duplicate is None
    cut = FaceDataset("mine", data.splits, validation_split_off=True)
    assert [default_split(d) for d in (data, both, cut)] == ["PublicTest", "PublicTest", "all"]
    more = cut.splits | {"PrivateTest": data["PublicTest"]}
    assert default_split(FaceDataset("mine", more, validation_split_off=True)) == "PrivateTest"
    assert evaluate(QUICK, cut).split == "all"


def test_what_was_left_out_is_said():
    faults = [ReadIssue(f"folder '{i}'", "is not named after an emotion (2 images)", "left out") for i in range(12)]
    data = FaceDataset("mine", issues=[*faults, ReadIssue("a.png", "cannot be read", "skipped")], notes=["a note"])
    lines = dataset_notes(data)
    assert lines[0] == "a note" and "folder '0'" in lines[1] and "(2 images)" in lines[1]
    assert lines[-2:] == ["… and 3 more folders left out",
                          "damaged and skipped: 1, the first is a.png: cannot be read; skipped"]


@pytest.fixture(scope="module")
def own_faces(data, tmp_path_factory):
    "A checkpoint and a file with one name in two folders, and the faces they say they were trained on."
    root, mine = tmp_path_factory.mktemp("own"), FaceDataset("mine", data.splits, validation_split_off=True)
    about = {"fingerprint": mine.fingerprint}
    for name in ("a", "b"):
        (root / name).mkdir()
        write_calibrated(models_dir() / f"{QUICK}.onnx", root / name / "own.onnx", np.stack([np.ones(7), np.zeros(7)]),
                         {"trained_on": json.dumps(about)})
    torch.save(load_checkpoint(models_dir() / f"best_{QUICK}.pth") | {"data": about}, root / "own.pth")
    return root, mine


@pytest.mark.parametrize("file", ["a/own.onnx", "own.pth"])
def test_what_a_model_was_trained_on_is_no_test(own_faces, file):
    root, mine = own_faces
    seen, new = evaluate(root / file, mine), evaluate(QUICK, mine)
    assert (seen.split, new.split) == ("PublicTest", "all") and "trained on" not in f"{seen}{new}"
    more = FaceDataset("mine", mine.splits | {"PrivateTest": mine["PublicTest"]}, validation_split_off=True)
    assert default_split(more, more.fingerprint) == "PrivateTest"
    for split in ("all", "Training"):
        assert f"was trained on {len(mine['Training'])} of these images" in str(evaluate(root / file, mine, split))


def test_models_are_compared_on_one_split_and_under_their_paths(own_faces, capsys):
    root, mine = own_faces
    names = [str(root / "a/own.onnx"), str(root / "b/own.onnx"), QUICK]
    print_evaluations(names, mine, None, False, True)
    rows = json.loads(capsys.readouterr().out)
    assert [row["model"] for row in rows] == [*names, " + ".join(names)]
    assert {row["split"] for row in rows} == {"PublicTest"}


# the results file



def with_two_models(folder, patch):
    "The same model under two names."
    for name in TWO:
        shutil.copy(models_dir() / f"{QUICK}.onnx", folder / f"{name}.onnx")
    patch.setenv("FER_NB_MODELS", str(folder))


@pytest.fixture
def two_models(tmp_path, monkeypatch):
    with_two_models(tmp_path, monkeypatch)
    return TWO


@pytest.fixture(scope="module")
def whole(data):
    "A small archive with both test parts."
    few = {part: data["PublicTest"][i::2] for i, part in enumerate(("PublicTest", "PrivateTest"))}
    return FaceDataset("mine", {"Training": data["Training"], **few})


@pytest.fixture(scope="module")
def kept(whole, tmp_path_factory):
    "What measuring two models on it gave."
    with pytest.MonkeyPatch.context() as patch:
        with_two_models(tmp_path_factory.mktemp("models"), patch)
        return evaluate_all(whole, log=lambda line: None)


def test_results_and_cards_of_whatever_is_there(two_models, data, tmp_path):
    few = FaceDataset("mine", data.splits | {"PublicTest": data["PublicTest"][::2]})
    path = write_results(few, log=lambda line: None)
    kept = json.loads(path.read_text())
    assert path == tmp_path / "results.json" and kept["missing"] == ["PrivateTest"]
    assert [(r["model"], r["tta"]) for r in kept["rows"]] == [
        (m, tta) for tta in (False, True) for m in (*available_models(), "ensemble")]
    assert set(CONTRACT) < set(kept["rows"][0])
    accuracy, cost, last = results_table().split("\n\n")
    assert "not in this archive: PrivateTest" in last
    for table, rows in ((accuracy, 6), (cost, 2)):
        lines = table.splitlines()
        assert len(lines) == 2 + rows and len({line.count("|") for line in lines}) == 1
    row = kept["rows"][0]
    assert f"| {row['accuracy']:.1%} ± " in accuracy.splitlines()[2]
    points = row["reliability"]
    assert sum(points["n"]) == row["n"] and ece_from_bins(*points.values()) == pytest.approx(
        row["ece_cross_fitted"], abs=1e-4)
    for model in kept["models"].values():
        assert model["size"] == model_info(QUICK).default_size and len(model["robustness"]) == len(CORRUPTIONS)
        assert model["images_per_second"] > 0 < model["ms_per_face"]
    assert kept["robustness_on"] == dict(split="PublicTest", n=row["n"])
    cards_keep_what_was_written_by_hand(tmp_path)


def cards_keep_what_was_written_by_hand(folder):
    files, kinds = write_cards(), (".md", "_reliability.png", "_robustness.png")
    assert {f.name for f in files} == {f"{model}{kind}" for model in TWO for kind in kinds}
    card = folder / f"{QUICK}.md"
    first, words = card.read_text(), "Two paragraphs with {braces} and | bars.\n\nThe second."
    card.write_text(first.replace("Nothing is written here yet.", words))
    pictures = [f.read_bytes() for f in files if f.suffix == ".png"]
    write_cards()
    assert card.read_text() == first.replace("Nothing is written here yet.", words)
    assert pictures == [f.read_bytes() for f in files if f.suffix == ".png"] and not list(folder.glob(".*"))
    card.write_text(card.read_text().replace(MANUAL_MARKERS[0], ""))
    with pytest.raises(ModelError, match="lost a mark"):
        write_cards()


def test_tables_of_a_whole_archive(two_models, whole, kept):
    accuracy, _, last = results_table(kept).split("\n\n")
    splits = " | without duplicates | ".join(("PublicTest", "PrivateTest", "both"))
    assert accuracy.splitlines()[0] == f"| model | views | {splits} | without duplicates | macro F1 | ECE |"
    weights = [kept["weights"][m] for m in two_models]
    assert sum(weights) == pytest.approx(1, abs=0.002)
    assert [("accuracy_cross_fitted" in row) for row in kept["rows"]] == [
        (row["model"], row["split"]) == ("ensemble", "PublicTest") for row in kept["rows"]]
    temperature = kept["ensemble_temperature"]
    each = [evaluate(m, whole, "test", True) for m in two_models]
    both, again = kept["rows"][-1], ensemble(each, weights, temperature)
    assert (both["split"], both["model"], both["n"]) == ("test", "ensemble", len(again))
    assert both["confusion_matrix"] == again.matrix.tolist()
    assert both["without_exact_duplicates"] == pytest.approx(again.to_dict()["without_exact_duplicates"])
    row = next(r for r in kept["rows"] if r["split"] == "PrivateTest")
    assert accuracy.splitlines()[2].split(" | ")[-2:] == [f"{row['macro_f1']:.1%}", f"{row['ece']:.1%} |"]
    assert "The ensemble's weights: " in last and "were fitted on PublicTest with 2 views. Fitted on other " in last
    assert both["ece"] == pytest.approx(again.metrics["ece"])
    assert both["selective"]["threshold"] == kept["ensemble_threshold"]
    assert "Macro F1 and ECE are PrivateTest's." in last and "not in this archive" not in last
    first = next(r for r in kept["rows"] if r["split"] == "PublicTest" and not r["tta"])
    assert row["selective"]["threshold"] == first["selective"]["threshold"]  # chosen on the other part


def test_what_others_reached_is_said_with_its_source():
    measured, times, published, _ = published_table().split("\n\n")
    assert "measured by us" in measured and "published by others" in published and times.startswith("Times: ")
    for splits, line in zip(load_peers().values(), measured.splitlines()[2:], strict=True):
        row = splits["PublicTest"]
        figures = " / ".join(f"{row[key]:.1%}" for key in ("accuracy", "macro_f1", "ece"))
        assert line.startswith(f"| {row['library']} | {figures} |")
    for line in published.splitlines()[2:]:
        assert "](https://" in line and "%" in line


def test_rows_of_different_origin_are_refused(kept):
    assert results_table(kept)
    for change in (dict(data="another"), dict(code="0.0.1, git unknown"), dict(weights={QUICK: "0" * 16})):
        rows = [*kept["rows"][:-1], kept["rows"][-1] | dict(made_by=kept["rows"][-1]["made_by"] | change)]
        for use in (results_table, write_cards, lambda r: hub_card(QUICK, r)):
            with pytest.raises(ModelError, match=r"mixes figures .* fer-nb evaluate --all"):
                use(kept | dict(rows=rows))
    with pytest.raises(ModelError, match="earlier version"):
        results_table(kept | dict(rows=[{k: v for k, v in row.items() if k != "made_by"} for row in kept["rows"]]))
    with pytest.raises(ModelError, match="mixes figures"):
        results_table(kept | dict(fingerprint="of other data"))


def test_the_results_that_ship_are_those_of_the_files_that_ship():
    found = results.check_results()
    assert set(found["models"]) == set(available_models())
    for row in found["rows"]:
        members = available_models() if row["model"] == "ensemble" else [row["model"]]
        assert row["made_by"]["weights"] == {m: file_hash(models_dir() / f"{m}.onnx")[:16] for m in members}
        assert row.get("ece_cross_fitted", 0) < 0.02 + row["ece_null"]  # where calibrated on this very split
    assert ensemble_temperature(available_models()) == found.get("ensemble_temperature", 1.0)


# the cards


def test_a_card_says_what_the_results_say(kept):
    saved, m = load_checkpoint(models_dir() / f"best_{QUICK}.pth"), kept["models"][QUICK]
    card = model_card(QUICK, kept, "Words.", saved)
    row = next(r for r in kept["rows"] if (r["model"], r["split"], r["tta"]) == (QUICK, "PrivateTest", False))
    for shown in (
        f"{m['parameters']:,} parameters", f"{row['accuracy']:.1%} ({row['accuracy_ci95'][0]:.1%}–",
        f"| disgust | {row['per_class']['disgust']['precision']:.1%} |",
        f"1.5: {m['robustness']['blur (σ, px)'][-1][1]:.1%}",
        f"confidence of {m['threshold']:.2f}", f"{row['selective']['coverage']:.1%}",
        f"{sum(m['trained_on'].values()):,} gray faces", "Art. 5(1)(f)", "Art. 50(3)", train_command(saved),
        f"({QUICK}_robustness.png)", f"({QUICK}_reliability.png)",
        "{ece:.1%} / {coverage:.1%}".format_map(m["corruptions"]["JPEG (quality)"][5]),
        f"| two views | {m['stability']['two_views']['shift by 1 px']:.1%} |",
    ):
        assert shown in " ".join(card.split()), shown  # wherever its lines end
    assert "{" not in card and "None" not in card and "nan" not in card


def test_a_card_has_its_own_models_flicker(kept, monkeypatch, tmp_path):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    without = model_card(QUICK, kept, "Words.")
    half, quarter = ({"large face": dict(pairs=70, one_frame=f, smoothed=f / 2)} for f in (0.5, 0.25))
    film = dict(faces=10, frames=8, fps=10, noise=2.5, quality=80, smooth=0.3, models={TWO[0]: half, TWO[1]: quarter})
    (tmp_path / "flicker.json").write_text(json.dumps(film))
    card = model_card(QUICK, kept, "Words.")
    assert "50.0% / 25.0%" in card and "25.0% / 12.5%" not in card and "10 faces of PublicTest" in card
    assert "python docs/flicker.py" in card and "python docs/flicker.py" not in without and "{" not in without


def test_front_matter_is_yaml_with_the_figures_of_the_results(kept):
    yaml = pytest.importorskip("yaml")
    front = yaml.safe_load(card_front_matter(QUICK, kept).strip("-\n"))
    assert front["license"] == "apache-2.0" and front["pipeline_tag"] == "image-classification"
    (model,) = front["model-index"]
    rows = [row for row in kept["rows"] if row["model"] == QUICK]
    assert [r["dataset"]["split"] for r in model["results"]] == [row["split"] for row in rows]
    for found, row in zip(model["results"], rows, strict=True):
        values = {m["type"]: m["value"] for m in found["metrics"]}
        assert values["accuracy"] == pytest.approx(row["accuracy"], abs=1e-4)
        assert values["f1"] == pytest.approx(row["macro_f1"], abs=1e-4)


@pytest.mark.parametrize("changes", [
    {}, dict(epochs=7, lr=0.002, init="none"),
    dict(seed=4, teachers=("a b.pth", "c.pth"), mixup_alpha=0.3, batch_size=32, size=64),
])
def test_the_command_of_a_card_gives_the_same_recipe(changes):
    import shlex

    recipe = model_recipe(QUICK, **changes)
    words = shlex.split(train_command(dict(model=QUICK, recipe=vars(recipe), data={"source": "fer2013.zip"})))
    assert words[:5] == ["fer-nb", "train", QUICK, "--data", "fer2013.zip"]
    pairs = list(zip(words[5::2], words[6::2], strict=True))
    given = {option[2:].replace("-", "_"): value for option, value in pairs if option != "--set"}
    given |= dict(value.split("=", 1) for option, value in pairs if option == "--set")
    assert override(model_recipe(QUICK), **given) == recipe


def test_synthetic_faces_do_not_replace_what_was_measured(two_models, data, tmp_path):
    with pytest.raises(DatasetError, match="synthetic faces"):
        write_results(data)
    assert not (tmp_path / "results.json").exists()


def test_without_results_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="fer-nb evaluate --all"):
        results_table()


# calibration on other faces


@pytest.fixture(scope="module")
def wrong_model(tmp_path_factory):
    """Two files of a model that is twice too confident and expects other frequencies, and faces for which this is so.

    The labels are drawn from the shipped model's probabilities, so what is wrong with the files is known.
    """
    root, faces = tmp_path_factory.mktemp("wrong"), synthetic_faces(400, seed=11).images
    tilt, own = np.array([0.8, 0.8, 0, -0.8, 0, 0, -0.4]), np.stack([np.full(7, 2), np.zeros(7)])
    logits = log_probs(predict_proba(load_predictor(QUICK)[1], faces)) / 2 + tilt  # / 2: every emotion occurs
    truth = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = (truth.cumsum(1) > np.random.default_rng(0).random((400, 1))).argmax(1)
    for suffix, name in (("onnx", f"{QUICK}.onnx"), ("pth", f"best_{QUICK}.pth")):
        write_calibrated(models_dir() / name, root / f"wrong.{suffix}", own, {})
    split = Split(faces, labels, np.array([f"{i}.png" for i in range(400)]))
    return root, FaceDataset("mine", {"PublicTest": split}), tilt, truth


@pytest.mark.parametrize("suffix", ["onnx", "pth"])
def test_what_is_wrong_is_found_and_the_file_is_right(wrong_model, suffix, tmp_path):
    root, mine, tilt, truth = wrong_model
    report = calibrate(root / f"wrong.{suffix}", mine, tmp_path / f"mine.{suffix}")
    before, after = report.before, report.after
    assert after["nll"] < before["nll"] - 0.2 and after["ece"] < before["ece"] / 2
    assert report.temperature == pytest.approx(4, rel=0.25)
    offsets = np.array([report.offsets[e] for e in EMOTIONS])
    assert np.abs(offsets - offsets.mean() - tilt + tilt.mean()).max() < 0.5
    assert np.corrcoef(offsets, tilt)[0, 1] > 0.9
    file = tmp_path / f"mine.{suffix}"
    file = export(file, tmp_path) if suffix == "pth" else file
    with EmotionRecognizer(file) as recognizer:
        probs = recognizer.classify(mine["PublicTest"].images)
        assert np.abs(probs - truth).mean() < 0.03  # the wrong file's are 0.14 away
        assert recognizer.threshold == pytest.approx(report.threshold, abs=1e-4)
        on, figures = (json.loads(recognizer.metadata[key]) for key in ("calibrated_on", "figures"))
    assert figures == {"PublicTest": {name: pytest.approx(after[name], abs=1e-6) for name in ("accuracy", "macro_f1")}}
    assert (on["n"], on["fingerprint"]) == (400, mine.fingerprint) and sum(on["counts"].values()) == 400
    reference = reference_prior(recognizer.metadata)
    assert np.allclose(reference, [(on["counts"][e] + 0.5) / 403.5 for e in EMOTIONS])


def test_calibrated_twice_is_calibrated(wrong_model, tmp_path):
    root, mine, *_ = wrong_model
    for suffix in ("onnx", "pth"):
        once, twice = tmp_path / f"1.{suffix}", tmp_path / f"2.{suffix}"
        calibrate(root / f"wrong.{suffix}", mine, once)
        report = calibrate(once, mine, twice)
        assert report.temperature == pytest.approx(1, abs=0.15)  # the prior of the offsets counts again
        a, b = (evaluate(file, mine).probabilities for file in (once, twice))
        assert 0 < np.abs(a - b).max() < 0.1


@pytest.mark.parametrize("few, says", [
    (slice(99), "There are 99"),
    (slice(0), "no image"),
    ("disgust", "disgust 4"),
])
def test_too_few_faces_for_a_calibration(wrong_model, few, says, tmp_path):
    _, mine, *_ = wrong_model
    faces = mine["PublicTest"]
    if few == "disgust":
        few = np.sort(np.r_[np.flatnonzero(faces.labels != 1), np.flatnonzero(faces.labels == 1)[:4]])
    with pytest.raises(DatasetError, match=says):
        calibrate(QUICK, FaceDataset("few", {"PublicTest": faces[few]}), tmp_path / "new.onnx")
    assert not list(tmp_path.iterdir())


def test_a_calibration_that_helps_nobody(wrong_model, tmp_path):
    _, mine, *_ = wrong_model
    with pytest.raises(DatasetError, match="synthetic"):
        calibrate(QUICK, FaceDataset("drawn", mine.splits, synthetic=True), tmp_path / "new.onnx")
    seen = FaceDataset("seen", {"Training": mine["PublicTest"], "PublicTest": mine["PublicTest"][:150]})
    trained = tmp_path / "trained.onnx"
    write_calibrated(models_dir() / f"{QUICK}.onnx", trained, np.stack([np.ones(7), np.zeros(7)]),
                     {"trained_on": json.dumps({"fingerprint": seen.fingerprint})})
    for split in ("Training", "all"):
        with pytest.raises(DatasetError, match="trained on these faces"):
            calibrate(trained, seen, tmp_path / "new.onnx", split)
    assert calibrate(trained, seen, tmp_path / "new.onnx").calibrated_on["n"] == 150


def test_a_model_of_eight_bits_can_be_calibrated(tmp_path):
    faces = synthetic_faces(40, seed=3).images
    small = quantize_int8((models_dir() / f"{QUICK}.onnx").read_bytes(), faces)
    changed = add_calibration(small, np.stack([np.full(7, 0.5), np.zeros(7)]))
    assert np.allclose(onnx_predict(changed, faces), apply_temperature(onnx_predict(small, faces), 2), atol=1e-5)


# the command


def fer_nb(*words):
    from fer_nb.cli import app

    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Drawn faces in FER2013's folders."
    root = tmp_path_factory.mktemp("faces")
    for part, seeds in (("Training", range(6)), ("PublicTest", range(6, 10))):
        for emotion in EMOTIONS:
            where = root / ("train" if part == "Training" else "test") / emotion
            where.mkdir(parents=True)
            for seed in seeds:
                draw_face(emotion, seed).save(where / f"{part}_{seed}{emotion}.png")
    return root


def test_json_is_the_contract(folder):
    result = fer_nb(QUICK, "--data", folder, "--json")
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert list(figures) == CONTRACT and figures["n"] == 28 and figures["split"] == "PublicTest"
    assert set(figures["per_class"]) == set(EMOTIONS)
    assert set(figures["per_class"]["happy"]) == {"accuracy", "precision", "recall", "f1", "support"}
    assert set(figures["without_exact_duplicates"]) == {"n", "accuracy", "macro_f1"}
    assert figures["accuracy_ci95"][0] <= figures["accuracy"] <= figures["accuracy_ci95"][1]


def test_checkpoint_and_onnx_together(folder):
    words = models_dir() / f"best_{QUICK}.pth", models_dir() / f"{QUICK}.onnx", "--data", folder
    rows = json.loads(fer_nb(*words, "--json").stdout)
    assert len(rows) == 3 and rows[0]["accuracy"] == rows[1]["accuracy"] == rows[2]["accuracy"]
    printed = fer_nb(*words, "--tta")
    assert printed.exit_code == 0 and f"{words[0]} + {words[1]}" in printed.stdout  # two files may have one name
    assert "McNemar" in printed.stdout


def test_a_folder_of_ones_own_with_other_names(tmp_path):
    for name in ("Joy", "Anger", "contempt"):
        (tmp_path / name).mkdir()
        for seed in range(5):
            draw_face("happy", seed + 10 * len(name)).save(tmp_path / name / f"{seed}.png")
    (tmp_path / "bored").mkdir()
    draw_face("sad", 1).save(tmp_path / "bored" / "1.png")
    result = fer_nb(QUICK, "--data", tmp_path)  # all images, for the folder has no parts
    assert result.exit_code == 0, result.output
    assert "on all, 10 images" in result.stdout and "no image of disgust" in result.stdout
    assert "contempt is none of the seven emotions: 5 images left out" in result.stdout
    assert "folder 'bored': is not named after one of the seven emotions (1 image); left out" in result.stdout
    meant = ("--label-map", "contempt=disgust", "--label-map", "bored=neutral")
    meant = fer_nb(QUICK, "--data", tmp_path, *meant, "--json")
    figures = json.loads(meant.stdout)
    assert figures["n"] == 16 and figures["per_class"]["disgust"]["support"] == 5
    assert "no image of fear" in figures["notes"][0] and "'contempt' counts as disgust" in figures["notes"]
    assert figures["per_class"]["fear"]["f1"] is None
    assert fer_nb(QUICK, "--data", tmp_path, "--label-map", "contempt").exit_code == 2


def test_votes_on_the_command_line(tmp_path):
    rows, votes = ["emotion,pixels,Usage"], [
        "Usage,Image name,neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"]
    for i, part in enumerate(["Training"] * 14 + ["PublicTest"] * 14):
        face = np.asarray(draw_face("happy", i))
        rows.append(f"3,{' '.join(map(str, face.ravel()))},{part}")
        votes.append(f"{part},fer{i}.png,{'6,4' if i % 2 else '1,9'},0,0,0,0,0,0,0,0")
    (tmp_path / "fer2013.csv").write_text("\n".join(rows))
    (tmp_path / "fer2013new.csv").write_text("\n".join(votes))
    words = QUICK, "--data", tmp_path / "fer2013.csv", "--votes", tmp_path / "fer2013new.csv"
    figures = json.loads(fer_nb(*words, "--json").stdout)
    assert list(figures) == [*CONTRACT, "ambiguous"] and figures["ambiguous"]["images"] == 0.5
    assert "50.0% of the images" in fer_nb(*words).stdout
    refused = fer_nb("--data", models_dir(), "--votes", tmp_path / "fer2013new.csv")
    assert refused.exit_code == 2 and "FER+ votes belong to the rows of fer2013.csv" in refused.stderr


def test_calibrate_on_the_command_line(wrong_model, tmp_path):
    _, mine, *_ = wrong_model
    faces = mine["PublicTest"]
    for i, (face, label) in enumerate(zip(faces.images, faces.labels, strict=True)):
        where = tmp_path / "faces" / EMOTIONS[label]
        where.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(where / f"{i}.png")
    out = tmp_path / "mine.onnx"
    words = QUICK, "--data", tmp_path / "faces", "--split", "all", "--calibrate"
    found = json.loads(fer_nb(*words, out, "--json").stdout)
    assert found["file"] == str(out) and set(found["before"]) == set(found["after"])
    assert found["calibrated_on"]["n"] == 400
    content = out.read_bytes()
    refused = fer_nb(*words, out)
    assert refused.exit_code == 2 and "not overwritten" in refused.stderr and out.read_bytes() == content
    printed = fer_nb(*words, tmp_path / "other.onnx").stdout
    assert "cross-fitted" in printed and f"{found['after']['nll']:.3f}" in printed


@pytest.mark.parametrize("words, says", [
    (["--split", "PrivateTest"], "It has Training and PublicTest"),
    (["--split", "test"], "PrivateTest"),
    (["--write"], "--write needs --all"),
    (["--all", "custom_cnn"], "--all stands instead of names"),
    (["--all", "--write", "--tta"], "--write measures every split as it is"),
    (["--label-map", "contempt=bored"], "'contempt' cannot mean 'bored'"),
    (["--calibrate", "new.pth"], "is a .onnx file again"),
    (["--calibrate", "new.onnx"], "needs 100 faces, 5 of each emotion"),
    (["--calibrate", "new.onnx", "--tta"], "--calibrate takes one model"),
    (["--calibrate", "new.onnx", *TWO], "--calibrate takes one model"),
    (["--calibrate", "new.onnx", "--all"], "--calibrate takes one model"),
    (["custom_cn"], "custom_cnn"),
])
def test_mistakes_are_one_line(folder, words, says):
    result = fer_nb("--data", folder, *words)
    assert result.exit_code == 2 and says in result.stderr, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_write_keeps_the_figures(two_models, folder, tmp_path):
    result = fer_nb("--all", "--data", folder, "--write")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "results.json").is_file() and "| model |" in result.stdout
    assert all((tmp_path / f"{model}.md").is_file() and f"{model}.md" in result.stdout for model in two_models)
    assert not list(tmp_path.glob(".*"))


def test_results_that_cannot_be_written_leave_the_old_ones(two_models, data, tmp_path, monkeypatch):
    (tmp_path / "results.json").write_text("old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr("fer_nb.core.os.replace", full)
    monkeypatch.setattr(results, "evaluate_all", lambda *_, **__: {})
    with pytest.raises(OSError, match="No space"):
        write_results(FaceDataset("mine", data.splits), log=lambda line: None)
    assert (tmp_path / "results.json").read_text() == "old" and not list(tmp_path.glob(".*"))
