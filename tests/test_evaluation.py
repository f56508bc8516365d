"Figures against scikit-learn and against counting by hand; every form of a model; the command."

import json
import shutil

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="evaluation needs the [train] extra")
pytest.importorskip("fastai", reason="evaluation needs the [train] extra")

from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics
from typer.testing import CliRunner

from fer_nb import evaluation as ev
from fer_nb.core import EMOTIONS, MODELS, DataError, ModelError, model_info, models_dir, shipped_models
from fer_nb.data import FaceData, Fault, Part, draw_face, drawn_data, drawn_faces, tta_views
from fer_nb.training import load_torch, make_recipe, model_recipe

QUICK = min(shipped_models(), key=lambda m: model_info(m).size)
CONTRACT = ["model", "part", "n", "accuracy", "accuracy_ci95", "macro_f1", "weighted_f1", "ece", "nll", "per_class",
            "without_copies"]


def guesses(n=400, seed=0, skill=1.5):
    "Labels, and probabilities that are better than chance."
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.r_[np.arange(7), rng.choice(7, n - 7, p=[0.13, 0.02, 0.14, 0.25, 0.17, 0.18, 0.11])])
    logits = rng.normal(size=(n, 7)) + skill * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def made_up(probs, labels, **more):
    return ev.Evaluation("made up", "PublicTest", labels, probs, **more)


@pytest.fixture(scope="module")
def data():
    return drawn_data(140, seed=5)


# figures


def test_every_figure_is_scikit_learns():
    probs, labels = guesses()
    e, said = made_up(probs, labels), probs.argmax(1)
    figures = e.to_dict()
    assert figures["accuracy"] == pytest.approx(metrics.accuracy_score(labels, said))
    assert figures["macro_f1"] == pytest.approx(metrics.f1_score(labels, said, average="macro"))
    assert figures["weighted_f1"] == pytest.approx(metrics.f1_score(labels, said, average="weighted"))
    assert figures["nll"] == pytest.approx(-np.log(probs[np.arange(400), labels]).mean())
    precision, recall, f1, support = metrics.precision_recall_fscore_support(labels, said, zero_division=0)
    for i, emotion in enumerate(EMOTIONS):
        expected = dict(accuracy=recall[i], precision=precision[i], recall=recall[i], f1=f1[i], support=support[i])
        assert figures["per_class"][emotion] == pytest.approx(expected)
    two = np.argsort(-probs)[:, :2]
    assert e.figures["top2"] == pytest.approx((two == labels[:, None]).any(1).mean())
    assert np.allclose(e.rates, metrics.confusion_matrix(labels, said, normalize="true"))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30))
def test_scores_of_any_answers(pairs):
    labels, said = np.array(pairs).T
    scores, there = ev.class_scores(ev.confusion(labels, said)), np.unique(labels)
    theirs = metrics.precision_recall_fscore_support(labels, said, labels=there, zero_division=0)
    for k, name in enumerate(("precision", "recall", "f1")):
        assert np.allclose(scores[name][there], theirs[k])
        assert np.isnan(np.delete(scores[name], there)).all()
    macro = metrics.f1_score(labels, said, labels=there, average="macro", zero_division=0)
    assert ev.averages(ev.confusion(labels, said))["macro_f1"] == pytest.approx(macro)


def test_intervals_hold_the_truth_in_95_of_100_test_sets():
    rng, truth, hits = np.random.default_rng(0), 0.7, 0
    for _ in range(300):
        right = rng.random(400) < truth
        low, high = ev.intervals(ev.confusion(np.full(400, 3), np.where(right, 3, 4)), rounds=500)["accuracy"]
        hits += low <= truth <= high
    assert 0.91 < hits / 300 < 0.98


def test_intervals_of_macro_f1_are_those_of_drawing_images():
    probs, labels = guesses()
    said, rng = probs.argmax(1), np.random.default_rng(1)
    slow = []
    for _ in range(400):
        i = rng.integers(0, len(labels), len(labels))
        slow.append(metrics.f1_score(labels[i], said[i], average="macro", labels=np.unique(labels[i])))
    quick = ev.intervals(ev.confusion(labels, said))["macro_f1"]
    assert quick == pytest.approx(np.quantile(slow, (0.025, 0.975)), abs=0.015)


def test_ranking_is_scikit_learns():
    probs, labels = guesses()
    table = ev.ranking(made_up(probs, labels))
    auc = metrics.roc_auc_score(labels, probs, multi_class="ovr", average="macro")
    assert np.mean([row["auc"] for row in table.values()]) == pytest.approx(auc)
    three = ev.ranking(made_up(probs[:3], np.array([3, 3, 3])))
    assert set(v for row in three.values() for v in row.values()) == {None}


def test_worst_mistakes_come_first():
    probs = np.full((4, 7), 0.01)
    probs[np.arange(4), [0, 1, 2, 3]] = 0.94, 0.5, 0.8, 0.9
    worst = made_up(probs, np.array([0, 0, 0, 0])).worst()
    assert worst.tolist() == [3, 2, 1]


# missing emotions


def test_an_absent_emotion_is_neither_a_zero_nor_a_crash(data):
    some = data["PublicTest"][data["PublicTest"].labels != 1]
    e = ev.evaluate(QUICK, FaceData("mine", {"PublicTest": some}))
    figures = json.loads(json.dumps(e.to_dict()))
    assert figures["per_class"]["disgust"] == dict(accuracy=None, precision=None, recall=None, f1=None, support=0)
    scores = [row["f1"] for row in figures["per_class"].values() if row["support"]]
    assert figures["macro_f1"] == pytest.approx(np.mean(scores)) and len(scores) == 6
    assert "no image of disgust" in str(e) and figures["without_copies"] is None
    assert json.dumps(ev.result_row(e, None))
    ev.plot_ranking(e)


def test_one_image_can_be_evaluated(data):
    one = FaceData("mine", {"PublicTest": data["PublicTest"][:1]})
    assert json.dumps(ev.result_row(ev.evaluate(QUICK, one), None))


# calibration and abstaining


def test_calibration_error_of_honest_and_of_boasting_answers():
    rng = np.random.default_rng(0)
    sure = rng.uniform(1 / 7, 1, 20000)
    probs = np.c_[sure, np.repeat((1 - sure)[:, None] / 6, 6, 1)]
    labels = np.where(rng.random(20000) < sure, 0, 1 + rng.integers(0, 6, 20000))
    assert ev.calibration_error(probs, labels) < 0.01
    boasting = np.eye(7)[np.zeros(20000, int)]
    assert ev.calibration_error(boasting, labels) == pytest.approx(1 - (labels == 0).mean())


def test_calibration_noise_is_what_a_perfect_network_shows():
    probs, _ = guesses(2000)
    mean, most = ev.calibration_noise(probs)
    rng, shown = np.random.default_rng(7), []
    for _ in range(200):
        labels = (rng.random((2000, 1)) > probs.cumsum(1)).sum(1)
        shown.append(ev.calibration_error(probs, labels))
    assert mean == pytest.approx(np.mean(shown), rel=0.1) and 0.85 < (np.array(shown) <= most).mean() < 0.99


def test_calibration_error_counts_by_hand():
    probs, labels = guesses(50)
    sure, right, total = probs.max(1), probs.argmax(1) == labels, 0
    for b in range(15):
        inside = [i for i in range(50) if b / 15 < sure[i] <= (b + 1) / 15]
        if inside:
            total += len(inside) / 50 * abs(right[inside].mean() - sure[inside].mean())
    assert ev.calibration_error(probs, labels) == pytest.approx(total)


def test_calibration_is_never_fitted_on_the_image_it_is_applied_to(monkeypatch):
    probs, labels = guesses()
    seen, halves = [], torch.tensor([[0.5] * 7, [0.0] * 7])

    def fit(logits, labels):
        seen.append({row.tobytes() for row in logits})
        return halves

    monkeypatch.setattr(ev, "fit_calibration", fit)
    cooled = ev.cross_calibrated(probs, labels)
    rows = [row.tobytes() for row in ev.log_probabilities(probs)]
    left_out = np.array([[row not in call for call in seen] for row in rows])
    assert left_out.shape == (400, 5) and (left_out.sum(1) == 1).all()
    assert (left_out.argmax(1) == ev.folds(labels)).all()
    assert np.allclose(cooled, probs**0.5 / (probs**0.5).sum(1, keepdims=True))


def test_a_boasting_network_is_cooled_down():
    probs, labels = guesses(2000)
    boasting = probs**3 / (probs**3).sum(1, keepdims=True)
    before, after = (ev.calibration_error(p, labels) for p in (boasting, ev.cross_calibrated(boasting, labels)))
    assert after < 0.05 < 0.1 < before


def test_folds_share_every_emotion_evenly():
    _, labels = guesses()
    fold = ev.folds(labels)
    for emotion in range(7):
        n = np.bincount(fold[labels == emotion], minlength=5)
        assert n.max() - n.min() <= 1
    assert (fold == ev.folds(labels)).all()


def test_the_threshold_keeps_what_it_promises():
    probs, labels = guesses(2000)
    limit = ev.sure_threshold(probs, labels, 0.9)
    sure, right = probs.max(1), probs.argmax(1) == labels
    assert right[sure >= limit].mean() >= 0.9
    assert all(right[sure >= lower].mean() < 0.9 for lower in sure[sure < limit])
    kept = ev.cross_sure(probs, labels, 0.9)
    assert 0.86 < right[kept].mean() < 0.94 and abs(kept.mean() - (sure >= limit).mean()) < 0.1
    assert ev.sure_threshold(probs, (probs.argmax(1) + 1) % 7) == 1.0
    assert ev.sure_threshold(probs, probs.argmax(1)) == sure.min()


def test_area_under_risk_coverage_is_least_for_the_best_order():
    right = np.array([True] * 6 + [False] * 4)
    labels = np.where(right, 0, 1)
    probs = lambda sure: np.c_[sure, 1 - sure, np.zeros((10, 5))]  # noqa: E731
    sure = np.linspace(0.95, 0.55, 10)
    best, worst = (ev.risk_coverage(probs(s), labels)[1].mean() for s in (sure, sure[::-1]))
    assert best == pytest.approx((1 / 7 + 2 / 8 + 3 / 9 + 4 / 10) / 10) and worst > best


# copies


def test_copies_are_found_and_left_out(data):
    train, public = data["Training"], data["PublicTest"]
    mixed = Part(np.r_[public.images, train.images[:9]], np.r_[public.labels, train.labels[:9]],
                 np.r_[public.names, train.names[:9]])
    e = ev.evaluate(QUICK, FaceData("mine", {"Training": train, "PublicTest": mixed}))
    assert e.copied.sum() == 9 and e.to_dict()["without_copies"]["n"] == len(public)
    alone = ev.evaluate(QUICK, data)
    assert e.to_dict()["without_copies"]["accuracy"] == pytest.approx(alone.figures["accuracy"])
    assert e.to_dict()["without_copies"]["macro_f1"] == pytest.approx(alone.figures["macro_f1"])


def test_a_part_that_is_all_copies_has_no_figures_without_them(data):
    train = data["Training"]
    e = ev.evaluate(QUICK, FaceData("mine", {"Training": train, "PublicTest": train[:20]}))
    assert e.to_dict()["without_copies"] is None


def test_near_copies_survive_what_the_web_does_to_a_picture():
    faces = drawn_faces(60, seed=3).images
    brighter = (faces * 0.8 + 30).astype(np.uint8)
    marked = faces.copy()
    marked[:, 40:44, 10:30] = 200
    for changed in (faces, brighter, marked):
        assert ev.near_copies(changed, faces).mean() > 0.9
    others = drawn_faces(60, seed=4).images
    assert ev.near_copies(others, faces).mean() < 0.1
    assert ev.near_copies(faces[:0], faces).tolist() == []


def test_nearest_is_the_smallest_hamming_distance():
    rng = np.random.default_rng(0)
    a, b = rng.random((300, 256)) < 0.5, rng.random((40, 256)) < 0.5
    distances = (a[:, None] != b[None]).sum(-1)
    found, which = ev.nearest(a, b)
    assert (found == distances.min(1)).all() and (distances[np.arange(300), which] == found).all()


# several models


def test_mcnemar_is_the_binomial_test():
    labels = np.zeros(40, int)
    a, b = np.eye(7)[labels], np.eye(7)[labels]
    a[:3], b[3:13] = np.eye(7)[1], np.eye(7)[1]
    from scipy.stats import binom

    assert ev.mcnemar(made_up(a, labels), made_up(b, labels)) == pytest.approx(2 * binom.cdf(3, 13, 0.5))


def test_an_ensemble_is_the_mean_and_needs_the_same_images():
    probs, labels = guesses()
    other, _ = guesses(seed=1)
    both = ev.ensemble([made_up(probs, labels), made_up(other, labels)])
    assert np.allclose(both.probabilities, (probs + other) / 2)
    with pytest.raises(DataError, match="different images"):
        ev.ensemble([made_up(probs, labels), made_up(other, labels)[:9]])


def test_weights_of_an_ensemble_make_the_labels_likeliest():
    labels = guesses(n=120)[1]
    few = [guesses(n=120, seed=s)[0] ** 0.5 + skill * np.eye(7)[labels] for s, skill in enumerate((0.2, 0.5, 0.3))]
    few = [probs / probs.sum(1, keepdims=True) for probs in few]
    each = [made_up(probs, labels) for probs in few]
    weights = ev.fit_weights(each)

    def loss(w):
        return ev.ensemble(each, w).figures["nll"]

    assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
    for i in range(3):
        for step in (0.02, -0.02):
            w = weights.copy()
            w[i] = max(w[i] + step, 0)
            assert loss(weights) <= loss(w / w.sum()) + 1e-9
    fold = ev.folds(labels)
    apart = ev.fit_weights([e[fold != 3] for e in each])
    assert np.allclose(ev.cross_ensemble(each).probabilities[fold == 3],
                       np.tensordot(apart, np.stack(few)[:, fold == 3], 1))


# label noise


def test_the_ceiling_is_what_the_best_guesser_reaches():
    rng = np.random.default_rng(0)
    labels, group = rng.integers(0, 7, 200), rng.integers(0, 60, 200)
    best = sum(np.bincount(labels[group == g]).max() for g in np.unique(group))
    assert ev.label_ceiling(labels, group) == pytest.approx(best / 200)
    assert ev.label_ceiling(labels, np.arange(200)) == 1


def test_confident_learning_finds_exchanged_labels():
    probs, labels = guesses(2000, skill=5)
    spoilt = labels.copy()
    spoilt[:150] = (spoilt[:150] + 3) % 7
    checked = ev.cross_validated(probs, spoilt)
    assert np.allclose(checked.sum(1), 1)
    suspect = ev.suspect_labels(checked, spoilt)
    assert suspect[:150].mean() > 0.8 and suspect[150:].mean() < 0.05


def test_errors_on_contested_labels_are_counted():
    probs = np.eye(7)[[3, 3, 0, 0, 3]]
    labels = np.array([3, 3, 3, 3, 3])
    soft = np.zeros((5, 7), np.float32)
    soft[:, 3], soft[:, 4] = (0.9, 0.4, 0.4, 0.5, 1.0), (0.1, 0.6, 0.6, 0.5, 0.0)
    e = made_up(probs, labels, soft=soft)
    assert e.contested.tolist() == [False, True, True, False, False]  # just half is enough
    assert e.people() == pytest.approx(dict(images=2 / 5, errors=1 / 2, accuracy_of_others=2 / 3))
    assert e.to_dict()["contested"] == e.people() and "40.0% of the images, 50.0% of the errors" in str(e)
    right = e[e.right]
    assert right.people()["errors"] is None and "– of the errors" in str(right)
    assert e[e.contested].people()["accuracy_of_others"] is None


# worse pictures


def test_harms_do_what_they_say():
    faces = drawn_faces(12, seed=2).images
    gray = np.full((50, 48, 48), 128, np.uint8)
    turned = ev.HARMS["rotation"].do(faces, 90)
    assert (turned[0] == np.rot90(faces[0])).all() and (turned[1] == np.rot90(faces[1], -1)).all()
    noise = ev.HARMS["noise"].do(gray, 0.08).astype(float) - 128
    assert noise.std() == pytest.approx(0.08 * 255, rel=0.02) and abs(noise.mean()) < 0.5
    assert ev.HARMS["darkness"].do(gray, 0.25).max() == 32
    for share in (0.1, 0.45):
        white = np.zeros((20, 48, 48), np.uint8)
        white[:, :24] = 255
        gone = ev.HARMS["occlusion"].do(white, share)
        assert ((gone != 0) & (gone != 255)).mean((1, 2)) == pytest.approx(share, rel=0.05)
    small = ev.HARMS["small face"].do(faces, 8)
    assert small.shape == faces.shape and np.abs(np.fft.fft2(small)[:, 10:38, 10:38]).mean() < 0.2 * np.abs(
        np.fft.fft2(faces)[:, 10:38, 10:38]).mean()
    assert ev.HARMS["JPEG"].do(faces, 7).std() != faces.std()


@pytest.mark.parametrize("name", ev.HARMS)
def test_harms_grow_and_repeat(name):
    faces, harm = drawn_faces(20, seed=6).images, ev.HARMS[name]
    before, away = faces.copy(), []
    for strength in harm.strengths:
        spoilt = harm.do(faces, strength)
        assert spoilt.dtype == np.uint8 and (spoilt == harm.do(faces, strength)).all()
        away.append(np.abs(spoilt.astype(float) - faces).mean())
    assert (faces == before).all() and away == sorted(away) and len(away) == 6
    assert away[0] == 0 or (name == "JPEG" and away[0] < 1)
    assert harm.do(np.zeros((1, 60, 40), np.uint8), harm.strengths[2]).shape == (1, 60, 40)


def test_some_of_a_part_has_every_emotion_in_its_share(data):
    part = drawn_faces(700, seed=9)
    few = ev.some_of(part, 100)
    assert 90 < len(few) < 110 and (few.images == ev.some_of(part, 100).images).all()
    assert np.abs(np.array(list(few.counts.values())) - np.array(list(part.counts.values())) / 7).max() <= 1
    assert len(ev.some_of(part[:30], 100)) == 30


def test_robustness_is_evaluation_on_spoilt_images(data):
    part = data["PublicTest"]
    hurt = ev.robustness(QUICK, part)
    (none, as_it_is), *_, (light, dark) = hurt["darkness (light left)"]
    assert none == 1 and as_it_is == pytest.approx(ev.evaluate(QUICK, data).figures["accuracy"])
    spoilt = Part(ev.HARMS["darkness"].do(part.images, light), part.labels, part.names)
    assert dark == ev.evaluate(QUICK, FaceData("dark", {"PublicTest": spoilt})).figures["accuracy"]
    assert json.loads(json.dumps(hurt)) == hurt and [name.split(" (")[0] for name in hurt] == list(ev.HARMS)
    assert len(ev.plot_robustness({"a": hurt, "b": hurt}).axes) == 8


# models in all forms


@pytest.mark.parametrize("model", shipped_models())
def test_checkpoint_and_onnx_have_the_same_figures(model, data):
    few = FaceData("drawn", {"PublicTest": data["PublicTest"]}, drawn=True)
    files = models_dir() / f"best_{model}.pth", models_dir() / f"{model}.onnx"
    torch, onnx = (ev.evaluate(f, few) for f in files)
    assert np.abs(torch.probabilities - onnx.probabilities).max() < 1e-4
    assert (torch.model, onnx.model) == tuple(f.name for f in files)
    assert ev.evaluate(model, few).model == model


def test_views_are_averaged(data):
    _, predict = ev.open_model(QUICK)
    faces = data["PublicTest"].images[:20]
    mean = np.mean([predict(view) for view in tta_views(faces)], 0)
    assert np.abs(ev.probabilities(predict, faces, tta=True) - mean).max() < 1e-5
    turned = ev.probabilities(predict, np.ascontiguousarray(faces[:, :, ::-1]), tta=True)
    assert np.abs(turned - mean).max() < 1e-5


def test_what_is_no_model_is_said(tmp_path):
    for name in ("no.onnx", "no.pth"):
        with pytest.raises(ModelError):
            ev.open_model(tmp_path / name)
        (tmp_path / name).write_text("not a model")
        with pytest.raises(ModelError):
            ev.open_model(tmp_path / name)
    with pytest.raises(ModelError, match="custom_cnn"):
        ev.open_model("custom_cn")


def test_parts(data):
    with pytest.raises(DataError, match="no PrivateTest, which 'test' needs"):
        ev.choose(data, "test")
    with pytest.raises(DataError, match="It has Training and PublicTest"):
        ev.choose(data, "Holiday")
    empty = FaceData("mine", {"PublicTest": data["PublicTest"][:0]})
    with pytest.raises(DataError, match="no image"):
        ev.choose(empty, "PublicTest")
    both = FaceData("mine", data.parts | {"PrivateTest": data["PublicTest"][:5]})
    faces, copied = ev.choose(both, "test")
    assert len(faces) == len(data["PublicTest"]) + 5 and len(copied) == len(faces)
    faces, copied = ev.choose(data, "all")
    assert len(faces) == 168 and copied is None
    cut = FaceData("mine", data.parts, cut=True)
    assert [ev.usual_part(d) for d in (data, both, cut)] == ["PublicTest", "PublicTest", "all"]
    assert ev.usual_part(FaceData("mine", cut.parts | {"PrivateTest": data["PublicTest"]}, cut=True)) == "PrivateTest"
    assert ev.evaluate(QUICK, cut).part == "all"


def test_what_was_left_out_is_said():
    faults = [Fault(f"folder '{i}'", "is not named after an emotion (2 images)", "left out") for i in range(12)]
    data = FaceData("mine", faults=[*faults, Fault("a.png", "cannot be read", "skipped")], notes=["a note"])
    lines = ev.remarks(data)
    assert lines[0] == "a note" and "folder '0'" in lines[1] and "(2 images)" in lines[1]
    assert lines[-2:] == ["… and 3 more folders left out",
                          "damaged and skipped: 1, the first is a.png: cannot be read; skipped"]


# the results file


TWO = [QUICK, next(m for m in MODELS if m != QUICK)]


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
    return FaceData("mine", {"Training": data["Training"], **few})


@pytest.fixture(scope="module")
def kept(whole, tmp_path_factory):
    "What measuring two models on it gave."
    with pytest.MonkeyPatch.context() as patch:
        with_two_models(tmp_path_factory.mktemp("models"), patch)
        return ev.measure(whole, log=lambda line: None)


def test_results_and_cards_of_whatever_is_there(two_models, data, tmp_path):
    few = FaceData("mine", data.parts | {"PublicTest": data["PublicTest"][::2]})
    path = ev.write_results(few, log=lambda line: None)
    kept = json.loads(path.read_text())
    assert path == tmp_path / "results.json" and kept["missing"] == ["PrivateTest"]
    assert [(r["model"], r["tta"]) for r in kept["rows"]] == [
        (m, tta) for tta in (False, True) for m in (*shipped_models(), "ensemble")]
    assert set(CONTRACT) < set(kept["rows"][0])
    right, cost, last = ev.results_table().split("\n\n")
    assert "not in this archive: PrivateTest" in last
    for table, rows in ((right, 6), (cost, 2)):
        lines = table.splitlines()
        assert len(lines) == 2 + rows and len({line.count("|") for line in lines}) == 1
    row = kept["rows"][0]
    assert f"| {row['accuracy']:.1%} ± " in right.splitlines()[2]
    points = row["reliability"]
    assert sum(points["n"]) == row["n"] and ev.mean_gap(*points.values()) == pytest.approx(
        row["ece_cross_fitted"], abs=1e-4)
    for model in kept["models"].values():
        assert model["size"] == model_info(QUICK).size and len(model["robustness"]) == len(ev.HARMS)
        assert model["images_per_second"] > 0 < model["ms_per_face"]
    assert kept["robustness_on"] == dict(part="PublicTest", n=row["n"])
    cards_keep_what_was_written_by_hand(tmp_path)


def cards_keep_what_was_written_by_hand(folder):
    files, kinds = ev.write_cards(), (".md", "_reliability.png", "_robustness.png")
    assert {f.name for f in files} == {f"{model}{kind}" for model in TWO for kind in kinds}
    card = folder / f"{QUICK}.md"
    first, words = card.read_text(), "Two paragraphs with {braces} and | bars.\n\nThe second."
    card.write_text(first.replace("Nothing is written here yet.", words))
    pictures = [f.read_bytes() for f in files if f.suffix == ".png"]
    ev.write_cards()
    assert card.read_text() == first.replace("Nothing is written here yet.", words)
    assert pictures == [f.read_bytes() for f in files if f.suffix == ".png"] and not list(folder.glob(".*"))
    card.write_text(card.read_text().replace(ev.BY_HAND[0], ""))
    with pytest.raises(ModelError, match="lost a mark"):
        ev.write_cards()


def test_tables_of_a_whole_archive(two_models, whole, kept):
    right, _, last = ev.results_table(kept).split("\n\n")
    parts = " | without copies | ".join(("PublicTest", "PrivateTest", "both"))
    assert right.splitlines()[0] == f"| model | looks | {parts} | without copies | macro F1 | ECE |"
    weights = [kept["weights"][m] for m in two_models]
    assert sum(weights) == pytest.approx(1, abs=0.002)
    assert [("accuracy_cross_fitted" in row) for row in kept["rows"]] == [
        (row["model"], row["part"], row["tta"]) == ("ensemble", "PublicTest", True) for row in kept["rows"]]
    both, again = kept["rows"][-1], ev.ensemble([ev.evaluate(m, whole, "test", True) for m in two_models], weights)
    assert (both["part"], both["model"], both["n"]) == ("test", "ensemble", len(again))
    assert both["confusion_matrix"] == again.matrix.tolist()
    assert both["without_copies"] == pytest.approx(again.to_dict()["without_copies"])
    row = next(r for r in kept["rows"] if r["part"] == "PrivateTest")
    assert right.splitlines()[2].split(" | ")[-2:] == [f"{row['macro_f1']:.1%}", f"{row['ece']:.1%} |"]
    assert "Together: " in last and "as fitted on PublicTest with 2 looks; they have " in last
    assert "Macro F1 and ECE are PrivateTest's." in last and "not in this archive" not in last
    first = next(r for r in kept["rows"] if r["part"] == "PublicTest" and not r["tta"])
    assert row["sure"]["threshold"] == first["sure"]["threshold"]  # chosen on the other part


def test_what_others_reached_is_said_with_its_source():
    measured, published, _ = ev.published_table().split("\n\n")
    assert "measured by us" in measured and "published by others" in published
    for line in published.splitlines()[2:]:
        assert "](https://" in line and "%" in line


# the cards


def test_a_card_says_what_the_results_say(kept):
    saved, m = load_torch(models_dir() / f"best_{QUICK}.pth"), kept["models"][QUICK]
    card = ev.model_card(QUICK, kept, "Words.", saved)
    row = next(r for r in kept["rows"] if (r["model"], r["part"], r["tta"]) == (QUICK, "PrivateTest", False))
    for shown in (
        f"{m['parameters']:,} parameters", f"{row['accuracy']:.1%} ({row['accuracy_ci95'][0]:.1%}–",
        f"| disgust | {row['per_class']['disgust']['precision']:.1%} |",
        f"1.5: {m['robustness']['blur (σ, px)'][-1][1]:.1%}",
        f"confidence of {m['threshold']:.2f}", f"{row['sure']['coverage']:.1%}",
        f"{sum(m['trained_on'].values()):,} gray faces", "Art. 5(1)(f)", "Art. 50(3)", ev.train_command(saved),
        f"({QUICK}_robustness.png)", f"({QUICK}_reliability.png)",
    ):
        assert shown in card, shown
    assert "{" not in card and "None" not in card and "nan" not in card


@pytest.mark.parametrize("changes", [
    {}, dict(epochs=7, lr=0.002, start="none"),
    dict(seed=4, teachers=("a b.pth", "c.pth"), mixup=0.3, batch_size=32, size=64),
])
def test_the_command_of_a_card_gives_the_same_recipe(changes):
    import shlex

    recipe = model_recipe(QUICK, **changes)
    words = shlex.split(ev.train_command(dict(model=QUICK, recipe=vars(recipe), data={"source": "fer2013.zip"})))
    assert words[:5] == ["fer-nb", "train", QUICK, "--data", "fer2013.zip"]
    pairs = list(zip(words[5::2], words[6::2], strict=True))
    given = {option[2:].replace("-", "_"): value for option, value in pairs if option != "--set"}
    given |= dict(value.split("=", 1) for option, value in pairs if option == "--set")
    assert make_recipe(model_recipe(QUICK), **given) == recipe


def test_drawn_faces_do_not_replace_what_was_measured(two_models, data, tmp_path):
    with pytest.raises(DataError, match="drawn faces"):
        ev.write_results(data)
    assert not (tmp_path / "results.json").exists()


def test_without_results_it_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="fer-nb evaluate --all"):
        ev.results_table()


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
    assert list(figures) == CONTRACT and figures["n"] == 28 and figures["part"] == "PublicTest"
    assert set(figures["per_class"]) == set(EMOTIONS)
    assert set(figures["per_class"]["happy"]) == {"accuracy", "precision", "recall", "f1", "support"}
    assert set(figures["without_copies"]) == {"n", "accuracy", "macro_f1"}
    assert figures["accuracy_ci95"][0] <= figures["accuracy"] <= figures["accuracy_ci95"][1]


def test_checkpoint_and_onnx_together(folder):
    words = models_dir() / f"best_{QUICK}.pth", models_dir() / f"{QUICK}.onnx", "--data", folder
    rows = json.loads(fer_nb(*words, "--json").stdout)
    assert len(rows) == 3 and rows[0]["accuracy"] == rows[1]["accuracy"] == rows[2]["accuracy"]
    printed = fer_nb(*words, "--tta")
    assert printed.exit_code == 0 and f"best_{QUICK}.pth + {QUICK}.onnx" in printed.stdout
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
    assert list(figures) == [*CONTRACT, "contested"] and figures["contested"]["images"] == 0.5
    assert "50.0% of the images" in fer_nb(*words).stdout
    refused = fer_nb("--data", models_dir(), "--votes", tmp_path / "fer2013new.csv")
    assert refused.exit_code == 2 and "FER+ votes belong to the rows of fer2013.csv" in refused.stderr


@pytest.mark.parametrize("words, says", [
    (["--part", "PrivateTest"], "It has Training and PublicTest"),
    (["--part", "test"], "PrivateTest"),
    (["--write"], "--write needs --all"),
    (["--all", "custom_cnn"], "--all stands instead of names"),
    (["--all", "--write", "--tta"], "--write measures every part as it is"),
    (["--label-map", "contempt=bored"], "'contempt' cannot mean 'bored'"),
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
    monkeypatch.setattr(ev, "measure", lambda *_, **__: {})
    with pytest.raises(OSError, match="No space"):
        ev.write_results(FaceData("mine", data.parts), log=lambda line: None)
    assert (tmp_path / "results.json").read_text() == "old" and not list(tmp_path.glob(".*"))
