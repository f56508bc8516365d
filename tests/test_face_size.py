"""Faces larger than FER2013's 48 pixels, from the data to the answer: what only they show is learned and recognized."""

import json
import shutil
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import fer_nb, tiny_model
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs the [train] extra")
pytest.importorskip("onnxruntime")

from fer_nb import custom_cnn
from fer_nb.augmentation import Preprocess
from fer_nb.core import DatasetError, ModelError, RecipeError, available_models, models_dir
from fer_nb.data.dataset import FaceDataset, Split
from fer_nb.data.load import load_data
from fer_nb.data.synthetic import draw_face, synthetic_faces
from fer_nb.evaluation.evaluate import evaluate, load_predictor
from fer_nb.evaluation.robustness import corruption_metrics, zoom
from fer_nb.export import calibrate, export, max_abs_diff
from fer_nb.inference import EmotionRecognizer
from fer_nb.model_api import load_checkpoint, load_classifier
from fer_nb.recipe import Recipe
from fer_nb.training.callbacks import DistillationCallback
from fer_nb.training.checkpoints import average_checkpoints
from fer_nb.training.distillation import make_bank
from fer_nb.training.learner import train
from fer_nb.view_bank import load_bank

SIDE, EMOTIONS = 96, ("happy", "sad")
SETTINGS = dict(epochs=1, batch_size=8, lr=0.01, max_rotation=0, max_zoom=0, max_shift=0, ema_decay=0, brightness=0.1,
                contrast=0.1, label_smoothing=0, progressive_size=0)  # fmt: skip


def striped_face(seed, label):
    "A neutral face, with stripes of three pixels where it is to be called sad: 48 pixels cannot show them."
    rng = np.random.default_rng(seed)
    stripes = 35 * np.sin(2 * np.pi * (np.arange(SIDE) + rng.integers(3)) / 3)
    face = np.asarray(draw_face("neutral", seed, SIDE), float) * 0.7 + 40
    return (face + label * stripes + rng.normal(0, 6, face.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module", autouse=True)
def narrow():
    "The custom CNN with a quarter of its channels, which a test can afford."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(custom_cnn, "build", partial(custom_cnn.build, width=8))
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    "A folder of two classes that differ in the stripes alone."
    folder = tmp_path_factory.mktemp("striped")
    for seed in range(300):
        place = folder / ("train" if seed < 200 else "test") / EMOTIONS[seed % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(striped_face(seed, seed % 2)).save(place / f"{seed}.png")
    return folder


@pytest.fixture(scope="module")
def read(source):
    "The data as it is read for a network of some size."
    return lambda size: load_data(source, size=size, emotions=EMOTIONS, progress=False)


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    "What `fer-nb train` leaves of such data, without any word about the size of the faces."
    out = tmp_path_factory.mktemp("trained")
    words = [word for name, value in SETTINGS.items() for word in ("--set", f"{name}={value}")]
    options = ("--data", source, "--emotions", "happy,sad", "--size", 96, "--out", out)
    done = fer_nb("train", "custom_cnn", *options, *words)
    assert done.exit_code == 0, done.output
    return out / "best_custom_cnn.pth", out / "custom_cnn.onnx"


def test_what_only_large_faces_show_is_learned(trained, read, tmp_path):
    large, small = read(SIDE), read(48)
    assert load_checkpoint(trained[0])["face_size"] == large["Training"].face_size == SIDE
    for file in trained:
        assert load_predictor(file)[1].face_size == SIDE
        assert evaluate(file, large).metrics["accuracy"] > 0.9
        assert evaluate(file, small).metrics["accuracy"] < 0.7
    train("custom_cnn", small, out=tmp_path, size=96, log=lambda _: None, **SETTINGS)  # the same network
    assert load_checkpoint(tmp_path / "best_custom_cnn.pth")["face_size"] == 48
    assert evaluate(tmp_path / "best_custom_cnn.pth", large).metrics["accuracy"] < 0.7
    assert evaluate(tmp_path / "best_custom_cnn.pth", small).metrics["accuracy"] < 0.7


def test_faces_that_were_read_smaller_are_not_taken_for_unknown_ones(trained, read, tmp_path):
    said = {size: " ".join(evaluate(trained[1], read(size), "Training").notes) for size in (48, SIDE)}
    assert "reduced to 48 px" in said[48] and "reduced" not in said[SIDE] and "was trained on" in said[SIDE]
    for size, message in {48: "Read them with size=96", SIDE: "trained on these faces"}.items():
        with pytest.raises(DatasetError, match=message):
            calibrate(trained[1], read(size), tmp_path / "mine.onnx", "Training")


def test_the_commands_follow_the_file(trained, source, tmp_path):
    checkpoint, model = trained
    for file in trained:
        found = fer_nb("evaluate", file, "--data", source, "--json")
        assert found.exit_code == 0 and json.loads(found.stdout)["accuracy"] > 0.9, found.output
    done = fer_nb("export", checkpoint, "--data", source, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    said, before = (load_predictor(path)[1] for path in (tmp_path / "custom_cnn.onnx", model))
    assert (said.face_size, said.emotions) == (before.face_size, EMOTIONS)
    assert fer_nb("average", checkpoint, checkpoint, "--data", source, "--out", tmp_path / "mean").exit_code == 0
    assert load_checkpoint(tmp_path / "mean" / "best_custom_cnn.pth")["face_size"] == SIDE
    assert fer_nb("bank", checkpoint, "--data", source, "--views", 1, "--out", tmp_path / "bank.npz").exit_code == 0
    assert load_bank(tmp_path / "bank.npz").metadata["face_size"] == SIDE
    for to, side in {"folder": 96, "csv": 48}.items():
        out = tmp_path / to
        assert fer_nb("data", source, out, "--to", to).exit_code == 0
        assert load_data(out, size=256, progress=False)["Training"].face_size == side


def test_checkpoint_and_onnx_file_agree(trained):
    checkpoint, model = trained
    clf = load_classifier(checkpoint)
    assert clf.preprocess.face_size == SIDE and max_abs_diff(clf, model, 90) < 1e-4
    crops = np.stack([striped_face(seed, 1) for seed in range(900, 920)])
    probs = torch.from_numpy(clf.logits(crops)).softmax(1).numpy()
    assert np.allclose(probs, load_predictor(model)[1](crops), atol=1e-4)


def test_a_recognizer_cuts_faces_as_large_as_the_model_wants(trained, tmp_path):
    photos = [np.repeat(striped_face(900 + i, i % 2)[..., None], 3, 2) for i in range(20)]
    boxes, wall = [(30, 30, SIDE, SIDE)], np.full((200, 200, 3), 90, np.uint8)
    with EmotionRecognizer(trained[1], crop="whole") as recognizer:
        results = [*recognizer(photos), *recognizer.stream(photos)]
        correct = [result[0].emotion == EMOTIONS[i % 2] for i, result in enumerate(results)]
        assert np.mean(correct) > 0.9 and {result[0].crop.shape for result in results} == {(SIDE, SIDE)}
        for i in (0, 1):  # in a larger picture
            whole = wall.copy()
            whole[30 : 30 + SIDE, 30 : 30 + SIDE] = photos[i]
            assert np.array_equal(recognizer(whole, crop=boxes)[0].crop, photos[i][..., 0])
        mixed = recognizer([photos[0], b"no image", photos[1]])  # one without a face between two
        assert [len(result) for result in mixed] == [1, 0, 1]
        why = recognizer.explain(results[1][0])
        assert why.heatmap.shape == why.crop.shape == (SIDE, SIDE)
    with EmotionRecognizer(trained[1]) as recognizer:
        portrait = draw_face("happy", 1, size=480, zoom=0.6).convert("RGB")
        assert [face.crop.shape for face in recognizer(portrait)] == [(SIDE, SIDE)]
        assert [len(result) for result in recognizer([wall, portrait, wall])] == [0, 1, 0]


def test_an_ensemble_of_two_sizes(tmp_path):
    small = tiny_model(tmp_path / "small.onnx", {"emotions": "happy,sad"}, n=2)
    large = tiny_model(tmp_path / "large.onnx", {"emotions": "happy,sad", "face_size": "100"}, n=2)
    photo = np.zeros((300, 300, 3), np.uint8)
    for models, side in ((small, 48), (large, 100), ([small, large], 100)):
        with EmotionRecognizer(models, crop="whole") as recognizer:
            assert recognizer.classifier.face_size == side and recognizer(photo)[0].crop.shape == (side, side)


@pytest.mark.parametrize("said", ["47", "257", "-96", "many", "", "9" * 99])
def test_a_face_size_that_cannot_be(tmp_path, trained, said):
    model = tiny_model(tmp_path / "m.onnx", {"emotions": "happy,sad", "face_size": said}, n=2)
    for use in (load_predictor, EmotionRecognizer):
        with pytest.raises(ModelError, match="48 to 256 are possible"):
            use(model)
    torch.save(load_checkpoint(trained[0]) | {"face_size": said}, tmp_path / "m.pth")
    with pytest.raises(ModelError, match="is damaged"):
        load_classifier(tmp_path / "m.pth")


def test_a_checkpoint_that_does_not_say(trained, tmp_path):
    saved = load_checkpoint(trained[0])
    del saved["face_size"]
    torch.save(saved, tmp_path / "best_custom_cnn.pth")
    assert load_classifier(tmp_path / "best_custom_cnn.pth").preprocess.face_size == 48
    assert load_predictor(export(tmp_path / "best_custom_cnn.pth"))[1].face_size == 48


def test_the_shipped_models_have_48():
    for name in available_models():
        assert load_checkpoint(models_dir() / f"best_{name}.pth").get("face_size", 48) == 48
        assert EmotionRecognizer(name).classifier.face_size == 48


def test_a_mean_needs_faces_of_its_size(trained, read, tmp_path):
    checkpoint = trained[0]
    with pytest.raises(ModelError, match="trained on faces of 96 px"):
        average_checkpoints([checkpoint, checkpoint], read(48), tmp_path / "no")
    other = tmp_path / "other.pth"
    torch.save(load_checkpoint(checkpoint) | {"face_size": 48}, other)
    with pytest.raises(ModelError, match="one network"):
        average_checkpoints([checkpoint, other], read(SIDE), tmp_path / "no")
    average_checkpoints([checkpoint, checkpoint], read(SIDE), tmp_path / "mean")
    assert evaluate(tmp_path / "mean" / "best_custom_cnn.pth", read(SIDE)).metrics["accuracy"] > 0.9


def test_a_mean_needs_the_faces_of_its_checkpoints_and_a_folder_of_its_own(trained, read, tmp_path):
    checkpoint, data = trained[0], read(SIDE)
    others = replace(data, splits=data.splits | {"Training": data["Training"][1:]})
    with pytest.raises(ModelError, match=f"other faces than {data.source}, as it is read here. Give the data"):
        average_checkpoints([checkpoint], others, tmp_path)
    before = checkpoint.read_bytes()
    with pytest.raises(ModelError, match="would replace it"):
        average_checkpoints([checkpoint], data, checkpoint.parent)
    assert checkpoint.read_bytes() == before and not list(tmp_path.iterdir())


def test_a_training_goes_on_with_the_same_faces_only(trained, read, tmp_path):
    again = dict(out=tmp_path, size=96, resume=True, log=lambda _: None, **SETTINGS)
    for file in trained[0].parent.glob("custom_cnn_*"):
        shutil.copy(file, tmp_path)
    shutil.copy(trained[0], tmp_path)
    assert train("custom_cnn", read(SIDE), **again).files[0] == tmp_path / "best_custom_cnn.pth"  # it is finished
    with pytest.raises(Exception, match="not the same faces"):
        train("custom_cnn", read(48), **again)


def test_a_view_bank_of_other_faces_is_refused(trained, read, tmp_path):
    settings = SETTINGS | dict(out=tmp_path, size=96, teachers=str(tmp_path / "bank.npz"), log=lambda _: None)
    views = dict(max_rotation=0, brightness=0.1, contrast=0.1)
    make_bank([trained[0]], read(SIDE), 2, log=lambda _: None, **views).save(tmp_path / "bank.npz")
    with pytest.raises(RecipeError, match="is about faces of 96 px, this Training has 48 px"):
        train("custom_cnn", read(48), **settings)
    train("custom_cnn", read(SIDE), **settings)
    assert evaluate(tmp_path / "best_custom_cnn.pth", read(SIDE)).metrics["accuracy"] > 0.9


def test_a_teacher_of_smaller_faces_sees_them_small():
    teacher = str(models_dir() / "best_mobilenet_v3.pth")
    faces = np.stack([draw_face("happy", seed, SIDE) for seed in range(4)])
    wanted, distance = load_predictor(teacher)[1](faces), {}
    for size in (48, SIDE):  # of the student's faces, as it is told
        recipe = Recipe(size=SIDE, channels=1, teachers=(teacher,), distill_temperature=1.0, distill_weight=1.0)
        student = DistillationCallback(recipe, face_size=size)
        shown = Preprocess(SIDE, 1, SIDE)(torch.from_numpy(faces))
        student.learn = SimpleNamespace(training=True, x=shown, y=torch.zeros(4, 7))
        student.before_batch()
        distance[size] = np.abs(student.learn.yb[0].numpy() - wanted).max()
    assert distance[SIDE] < 0.03 < distance[48]


def test_corruptions_of_larger_faces():
    faces = synthetic_faces(14, seed=3)
    large = Split(np.kron(faces.images, np.ones((2, 2), np.uint8)), faces.labels, faces.paths)
    rows = {}
    for split in (faces, large):
        figures = corruption_metrics(lambda images: np.eye(7)[np.zeros(len(images), int)], split)
        rows[split.face_size] = [row["severity"] for row in figures["small face (side, px)"]]
        assert len(figures["blur (σ, px)"]) == 6
    assert rows == {48: [48, 36, 24, 16, 12, 8], 96: [96, 48, 36, 24, 16, 12, 8]}
    halved = zoom(large.images, 1)[:, ::2, ::2].astype(int) - zoom(faces.images, 1)
    assert np.abs(halved).mean() < 10 < np.abs(zoom(faces.images, 2).astype(int) - zoom(faces.images, -2)).mean()


def test_fer2013_sized_data_trains_as_before(tmp_path):
    data = FaceDataset("48 px", {"Training": synthetic_faces(70), "PublicTest": synthetic_faces(35, seed=1)})
    train("custom_cnn", data, out=tmp_path, size=96, log=lambda _: None, **SETTINGS)
    saved = load_checkpoint(tmp_path / "best_custom_cnn.pth")
    assert (saved["face_size"], saved["size"]) == (48, 96)
