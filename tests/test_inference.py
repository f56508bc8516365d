"""Bad and odd pictures and models, from the outside: every one ends in an answer or in one of our errors."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest
from conftest import fer_nb, tiny_model
from PIL import Image

from fer_nb import runtime
from fer_nb.core import EMOTIONS, FerError, ImageError, ModelError, default_model, models_dir
from fer_nb.data.synthetic import draw_face
from fer_nb.explain import occlusion_map
from fer_nb.faces import detect_faces
from fer_nb.images import load_image
from fer_nb.inference import COLUMNS, EmotionRecognizer, list_models, to_pandas
from fer_nb.prior import adapt_prior, reference_prior

ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def recognizer():
    return EmotionRecognizer()


@pytest.fixture(scope="module")
def portrait():
    "A drawn person in colour mode, 400 x 400."
    return draw_face("happy", seed=4, size=400, zoom=0.6).convert("RGB")


def png(image, **how):
    file = io.BytesIO()
    image.save(file, "PNG", **how)
    return file.getvalue()


# --- pictures that are odd, and still show a face -------------------------------------------------


def deep(image):
    return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)


def see_through(image):
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 60, 60))
    image = image.copy()
    image.putalpha(alpha)
    return image


def sideways(image):
    exif = Image.Exif()
    exif[274] = 6  # to be turned clockwise before it is looked at
    return image.transpose(Image.Transpose.ROTATE_90), {"exif": exif}


ODD = {
    "gray.png": lambda im: im.convert("L"),
    "sixteen_bit.png": deep,
    "sixteen_bit.tif": deep,
    "float.tif": lambda im: Image.fromarray(np.asarray(im.convert("L")) / np.float32(255)),
    "palette.png": lambda im: im.convert("P"),
    "palette.gif": lambda im: im.convert("P"),
    "alpha.png": see_through,
    "alpha.webp": see_through,
    "gray_alpha.png": lambda im: see_through(im).convert("LA"),
    "cmyk.jpg": lambda im: im.convert("CMYK"),
    "cmyk.tif": lambda im: im.convert("CMYK"),
    "animated.gif": lambda im: (im, {"save_all": True, "append_images": [Image.new("RGB", im.size)] * 3}),
    "animated.webp": lambda im: (im, {"save_all": True, "append_images": [Image.new("RGB", im.size)] * 3}),
    "sideways.jpg": sideways,
    "sideways.png": sideways,
    "small.bmp": lambda im: im.resize((120, 120)),
    "upper.JPEG": lambda im: im,
    "wrong_ending.jpg": None,
}


@pytest.mark.parametrize("name", ODD)
def test_odd_pictures_show_their_face(name, tmp_path, portrait, recognizer):
    path = tmp_path / name
    if name == "wrong_ending.jpg":
        path.write_bytes(png(portrait))
    else:
        made = ODD[name](portrait)
        image, how = made if isinstance(made, tuple) else (made, {})
        image.save(path, **how)
    result = recognizer(path)
    assert len(result.faces) == 1
    x, _, w, _ = result.faces[0].box
    assert abs(x + w / 2 - result.size[0] / 2) < result.size[0] / 6  # upright, the drawn head is in the middle
    assert abs(sum(result.faces[0].probabilities.values()) - 1) < 1e-4


def test_deep_gray_is_scaled_and_not_clipped(portrait):
    flat, scaled = (load_image(png(image)).astype(int) for image in (portrait.convert("L"), deep(portrait)))
    assert np.abs(flat - scaled).max() <= 1


def test_one_bit_is_black_and_white(portrait):
    assert set(np.unique(load_image(png(portrait.convert("1"))))) == {0, 255}


def test_transparent_is_white(portrait):
    assert (load_image(png(see_through(portrait)))[:50, :50] == 255).all()


def test_the_camera_s_orientation_is_followed(portrait, tmp_path):
    image, how = sideways(portrait)
    image.save(tmp_path / "a.png", **how)
    assert (load_image(tmp_path / "a.png") == np.asarray(portrait)).all()


def test_only_the_first_frame_counts(portrait, tmp_path):
    portrait.save(tmp_path / "a.gif", save_all=True, append_images=[Image.new("RGB", portrait.size)])
    assert load_image(tmp_path / "a.gif").mean() > 50


# --- what is no picture ---------------------------------------------------------------------------

SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
BAD_FILES = {
    "text.jpg": (b"dear diary, " * 99, "not a picture"),
    "page.jpg": (b"<!doctype html><html></html>", "not a picture"),
    "vector.svg": (SVG, "not a picture"),
    "program.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "not a picture"),
    "empty.png": (b"", "not a picture"),
    "one_byte.png": (b"\x89", "not a picture"),
    "only_a_header.png": (b"\x89PNG\r\n\x1a\n", "a"),
    "nulls.jpg": (bytes(10_000), "not a picture"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_what_is_no_picture_is_said_so(name, tmp_path, recognizer):
    content, word = BAD_FILES[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageError, match=word) as error:
        recognizer(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_cut_off_file_is_refused(format, share, portrait):
    file = io.BytesIO()
    portrait.save(file, format)
    with pytest.raises(ImageError, match=r"damaged or cut off|not a picture"):
        load_image(file.getvalue()[: int(share * len(file.getvalue()))])


@pytest.mark.parametrize("size", [(20_000, 10_000), (8_001, 8_000), (200_000, 400)])
def test_a_vast_picture_is_refused_by_its_header(size, tmp_path, recognizer):
    path = tmp_path / "vast.png"
    Image.new("1", size, 1).save(path)
    start = time.perf_counter()
    with pytest.raises(ImageError, match="larger than 64 million pixels"):
        recognizer(path)
    assert time.perf_counter() - start < 0.5


def test_there_is_no_such_file(tmp_path, recognizer):
    wrong = ((tmp_path / "none.jpg", "no file"), (tmp_path, "is a folder"), ("a\0b", "no file"), (42, "int"))
    for source, word in wrong:
        with pytest.raises(ImageError, match=word):
            recognizer(source)


BAD_ARRAYS = {
    "float": (np.zeros((9, 9, 3)), "float64.*uint8"),
    "nan": (np.full((9, 9), np.nan), "float64.*uint8"),
    "int": (np.zeros((9, 9, 3), int), "int64"),
    "bool": (np.zeros((9, 9), bool), "bool"),
    "words": (np.array([["a", "b"]]), "uint8"),
    "empty": (np.zeros((0, 0, 3), np.uint8), r"\[0, 0, 3\]"),
    "no columns": (np.zeros((9, 0), np.uint8), r"\[9, 0\]"),
    "a row": (np.zeros(9, np.uint8), r"\[9\]"),
    "channels first": (np.zeros((3, 9, 9), np.uint8), "channels first"),
    "two channels": (np.zeros((9, 9, 2), np.uint8), r"\[9, 9, 2\]"),
    "a batch": (np.zeros((2, 9, 9, 3), np.uint8), r"\[height, width, 3\]"),
}


@pytest.mark.parametrize("name", BAD_ARRAYS)
def test_an_array_of_another_form_is_told_which_is_wanted(name, recognizer):
    array, word = BAD_ARRAYS[name]
    with pytest.raises(ImageError, match=word) as error:
        recognizer(array)
    assert "[height, width, 3]" in str(error.value)


BAD_CROPS = {
    "float": np.zeros((2, 48, 48)),
    "nan": np.full((1, 48, 48), np.nan, np.float32),
    "one face": np.zeros((48, 48), np.uint8),
    "colours": np.zeros((2, 48, 48, 3), np.uint8),
    "nothing of a face": np.zeros((2, 0, 48), np.uint8),
    "words": np.array(["happy"]),
}


@pytest.mark.parametrize("name", BAD_CROPS)
def test_crops_of_another_form_are_told_which_is_wanted(name, recognizer):
    with pytest.raises(ImageError, match=r"uint8 \[N, height, width\], gray"):
        recognizer.classify(BAD_CROPS[name])


def test_a_picture_of_no_size_is_none(recognizer):
    with pytest.raises(ImageError, match="not a picture"):
        recognizer(Image.new("RGB", (0, 5)))


@pytest.mark.parametrize("size", [(1, 1), (1, 900), (900, 1), (5, 5), (48, 48), (3000, 20), (60, 60_000)])
def test_a_picture_without_a_face_is_an_answer(size, recognizer):
    result = recognizer(Image.new("RGB", size, (90, 120, 200)))
    assert result.faces == [] and "No face" in result.message == str(result)
    assert result.to_dict()["faces"] == []
    assert result.draw().width >= size[0]


def test_views_of_arrays_are_read_as_they_are_seen(portrait, recognizer):
    blue_first = np.asarray(portrait)[..., ::-1]  # a view with negative strides, as from OpenCV
    same = recognizer(blue_first[..., ::-1]).to_dict()
    assert same == recognizer(portrait).to_dict() == recognizer(np.asarray(portrait.convert("RGBA"))).to_dict()


# --- drawing --------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [60, 200, 900, 3000])
def test_the_drawing_has_room_for_words(side, portrait, recognizer):
    result = recognizer(portrait.resize((side, side)))
    drawn = result.draw()
    assert len(result.faces) == 1 and max(drawn.size) >= 480
    before = np.asarray(Image.fromarray(result.image).resize(drawn.size, Image.Resampling.BICUBIC))
    assert (np.asarray(drawn) != before).any(2).mean() > 0.01


# --- models ---------------------------------------------------------------------------------------


OURS = {"fer_nb": "0.1.0", "model": "custom_cnn", "classes": ",".join(EMOTIONS)}


def test_a_model_below_its_threshold_is_not_sure(tmp_path, portrait):
    unsure = EmotionRecognizer(tiny_model(tmp_path / "unsure.onnx", OURS | {"threshold": "0.5"}))(portrait)
    sure = EmotionRecognizer(tiny_model(tmp_path / "sure.onnx", OURS))(portrait)
    assert [face.is_confident for face in (*unsure, *sure)] == [False, True]
    assert "(not sure)" in str(unsure) and "(not sure)" not in str(sure)


@pytest.mark.parametrize("content", [b"", b"\x08", b"hello", bytes(4096)])
def test_a_file_that_is_no_model(content, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(content)
    with pytest.raises(ModelError, match=r"bad\.onnx"):
        EmotionRecognizer(tmp_path / "bad.onnx")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_off_model(share, tmp_path):
    content = (models_dir() / f"{default_model()}.onnx").read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match=r"cut\.onnx is not a model, or it is cut off"):
        EmotionRecognizer(tmp_path / "cut.onnx")


def test_a_model_of_others(tmp_path):
    others = (("a", {}, "faces"), ("b", OURS | {"classes": "cat,dog"}, "faces"), ("c", OURS, "input"))
    for name, metadata, inputs in others:
        with pytest.raises(ModelError, match="not a model of fer_nb"):
            EmotionRecognizer(tiny_model(tmp_path / f"{name}.onnx", metadata, inputs))


def test_a_model_that_is_not_there(tmp_path, monkeypatch):
    for model, word in (("custom_cn", "Did you mean custom_cnn"), (tmp_path / "none.onnx", "no file")):
        with pytest.raises(ModelError, match=word):
            EmotionRecognizer(model)
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    with pytest.raises(ModelError, match="fer-nb train"):
        EmotionRecognizer()


def test_models_are_listed_by_their_files_where_nothing_was_evaluated(tmp_path, monkeypatch):
    shutil.copy(models_dir() / "custom_cnn.onnx", tmp_path)
    tiny_model(tmp_path / "resnet18.onnx", {"emotions": ",".join(EMOTIONS)})
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    known, bare = list_models()
    own = json.loads(EmotionRecognizer("custom_cnn").metadata["figures"])["PublicTest"]["accuracy"]
    assert (known["model"], known["accuracy"], known["size"]) == ("custom_cnn", own, 48)
    assert (bare["model"], bare["accuracy"], bare["size"]) == ("resnet18", None, 48)
    assert "resnet18" in fer_nb("models").stdout


# --- labels of a model's own ----------------------------------------------------------------------

EIGHT = [*EMOTIONS, "contempt"]


@pytest.mark.parametrize("written", [",".join(EIGHT), json.dumps(EIGHT)])
def test_predictions_follow_the_labels_of_the_file(written, tmp_path, portrait):
    path = tiny_model(tmp_path / "eight.onnx", {"emotions": written}, n=8)
    recognizer = EmotionRecognizer(path, threshold=0)
    result, nobody = recognizer(portrait), recognizer(Image.new("RGB", (99, 99)))
    assert recognizer.emotions == tuple(EIGHT) == tuple(result[0].probabilities)
    assert recognizer.classify(result[0].crop[None]).shape == (1, 8)
    assert all(tuple(row) == recognizer.columns for row in result.rows() + nobody.rows())
    assert "contempt" in recognizer.columns and "contempt" not in COLUMNS
    assert recognizer.explain(result[0], "contempt").emotion == "contempt"
    assert result.draw().width >= 480
    with pytest.raises(ModelError, match="contempt"):
        EmotionRecognizer().explain(result[0].crop, "contempt")


def test_crops_of_several_sizes_are_refused_in_a_sentence():
    crops = [np.zeros((48, 48), np.uint8), np.zeros((64, 64), np.uint8)]
    with pytest.raises(ImageError, match=r"Faces of several sizes are no array\. Give them one size"):
        EmotionRecognizer("custom_cnn").classify(crops)


def test_a_model_of_two_labels_is_drawn(tmp_path, portrait):
    labels = {"emotions": "calm,tense"}
    result = EmotionRecognizer(tiny_model(tmp_path / "two.onnx", labels, n=2))(portrait)
    assert len(result[0].top3) == 2 and result.draw().width >= 480


@pytest.mark.parametrize("labels, n", [
    ({"emotions": "a,b"}, 3), ({"emotions": "a,a"}, 2), ({"emotions": "a"}, 1), ({"emotions": "a,"}, 2),
    ({"emotions": "[1"}, 2), ({"emotions": "[]"}, 2), ({}, 7), ({"classes": "a,b"}, 2),
])  # fmt: skip
def test_labels_that_do_not_fit(labels, n, tmp_path):
    with pytest.raises(ModelError, match="not a model of fer_nb"):
        EmotionRecognizer(tiny_model(tmp_path / "odd.onnx", labels, n=n))


def test_an_ensemble_has_one_set_of_labels(tmp_path):
    eight = tiny_model(tmp_path / "eight.onnx", {"emotions": ",".join(EIGHT)}, n=8)
    backwards = tiny_model(tmp_path / "backwards.onnx", {"emotions": ",".join(EMOTIONS[::-1])})
    for other in (eight, backwards):
        with pytest.raises(ModelError, match="same emotions in the same order"):
            EmotionRecognizer([default_model(), other])


# --- many pictures --------------------------------------------------------------------------------


def test_a_list_gives_a_list_in_its_order(portrait, recognizer, tmp_path):
    (tmp_path / "bad.jpg").write_text("no photo")
    portrait.save(tmp_path / "good.png")
    wall = Image.new("RGB", (320, 240))
    sources = [portrait, tmp_path / "bad.jpg", np.asarray(portrait), wall, png(portrait), str(tmp_path / "good.png")]
    results = recognizer(sources * 8)
    assert [len(r.faces) for r in results] == [1, 0, 1, 0, 1, 1] * 8
    assert [bool(r.error) for r in results] == [False, True, False, False, False, False] * 8
    assert results[1].source == str(tmp_path / "bad.jpg") and "bad.jpg" in results[1].message
    alone = recognizer(portrait).faces[0]
    assert all(r.faces[0].probabilities == pytest.approx(alone.probabilities, abs=1e-4) for r in results if r.faces)
    assert recognizer([]) == [] and list(recognizer(iter([]))) == []


def test_an_iterator_is_read_as_needed(portrait, recognizer):
    "The second batch is not touched before the first is used up; a million pictures need the memory of some."
    read = []

    def pictures():
        for i in range(10**6):
            read.append(i)
            yield portrait

    results = recognizer(pictures())
    assert not read
    assert len(next(results).faces) == 1
    assert len(read) <= 32 + 2 * recognizer.threads + 2
    results.close()


def test_large_pictures_do_not_pile_up(recognizer):
    "Of pictures of 8 million pixels no more than a few are in memory."
    read = []
    results = recognizer(read.append(i) or np.zeros((2000, 4000, 3), np.uint8) for i in range(1000))
    next(results)
    assert len(read) <= 4 + 2 * recognizer.threads + 2
    results.close()


def test_an_error_of_the_iterator_is_the_caller_s(portrait, recognizer):
    def pictures():
        yield portrait
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        list(recognizer(pictures()))


def test_rows_are_flat_and_name_every_picture(portrait, recognizer, tmp_path):
    pandas = pytest.importorskip("pandas")
    (tmp_path / "bad.jpg").write_text("no photo")
    results = recognizer([portrait, tmp_path / "bad.jpg", Image.new("RGB", (99, 99))])
    table = to_pandas(results)
    assert isinstance(table, pandas.DataFrame) and tuple(table.columns) == COLUMNS
    assert table.face.tolist() == [1, 0, 0] and table.error.astype(bool).tolist() == [False, True, False]
    assert table.loc[0, list(EMOTIONS)].sum() == pytest.approx(1, abs=1e-4)
    assert len(results[0].to_pandas()) == 1
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        results[1].draw()


def test_without_pandas_it_is_said_how_to_get_it(portrait, recognizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(FerError, match="pip install pandas"):
        recognizer(portrait).to_pandas()


def test_a_result_is_a_sequence_of_its_faces(portrait, recognizer):
    result = recognizer(portrait)
    assert len(result) == 1 and list(result) == result.faces and result[0] is result[-1] is result.faces[0]
    assert result[:1] == result.faces and result.faces[0] in result
    with pytest.raises(IndexError):
        result[1]
    assert len(recognizer(Image.new("RGB", (9, 9)))) == 0


# --- options --------------------------------------------------------------------------------------


def test_several_models_answer_with_their_mean(tmp_path, portrait):
    even = tiny_model(tmp_path / "even.onnx", OURS | {"threshold": "0.4"})
    both, one = EmotionRecognizer([even, default_model()]), EmotionRecognizer()
    for emotion, p in both(portrait).faces[0].probabilities.items():
        assert p == pytest.approx((one(portrait).faces[0].probabilities[emotion] + 1 / 7) / 2, abs=1e-5)
    assert both.threshold == pytest.approx((0.4 + one.threshold) / 2)
    without = tiny_model(tmp_path / "without.onnx", OURS)
    assert EmotionRecognizer([without, default_model()]).threshold == one.threshold


def test_several_models_count_as_was_fitted(tmp_path, portrait, monkeypatch):
    for name in ("custom_cnn", "resnet18"):
        shutil.copy(models_dir() / f"{name}.onnx", tmp_path)
    crops = np.stack([f.crop for f in EmotionRecognizer()(portrait).faces])
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    one, other = (EmotionRecognizer(name).classify(crops) for name in ("custom_cnn", "resnet18"))

    def both():
        return EmotionRecognizer(["custom_cnn", "resnet18"]).classify(crops)

    for kept, share in (
        (None, 0.5), ("{cut", 0.5), ('{"rows": []}', 0.5), ('{"weights": {"custom_cnn": 0.3}}', 0.5),
        ('{"weights": {"custom_cnn": 0.15, "resnet18": 0.45, "mobilenet_v3": 0.4}}', 0.25),
        ('{"weights": {"custom_cnn": 0.0, "resnet18": 1.0}}', 0.0),
    ):  # fmt: skip
        if kept:
            (tmp_path / "results.json").write_text(kept)
        assert np.allclose(both(), share * one + (1 - share) * other, atol=1e-6)
    assert both().dtype == np.float32


def test_an_ensemble_is_sharpened_as_was_fitted(tmp_path, portrait, monkeypatch):
    for name in ("custom_cnn", "resnet18", "mobilenet_v3"):
        shutil.copy(models_dir() / f"{name}.onnx", tmp_path)
    crops = np.stack([f.crop for f in EmotionRecognizer()(portrait).faces])
    monkeypatch.setenv("FER_NB_MODELS", str(tmp_path))
    kept = {"weights": {"custom_cnn": 0.25, "resnet18": 0.75, "mobilenet_v3": 0.0}}
    (tmp_path / "results.json").write_text(json.dumps(kept))
    both = ["custom_cnn", "resnet18", "mobilenet_v3"]
    plain = EmotionRecognizer(both)
    mean, own = plain.classify(crops), plain.threshold
    fitted = {"ensemble_temperature": 0.5, "ensemble_threshold": 0.625}
    (tmp_path / "results.json").write_text(json.dumps(kept | fitted))
    sharp = mean**2 / (mean**2).sum(1, keepdims=True)
    for names in (both, both[::-1]):
        fitted = EmotionRecognizer(names)
        assert np.allclose(fitted.classify(crops), sharp, atol=1e-5) and fitted.threshold == 0.625
    others = "custom_cnn", both[:2], [*both[:2], tmp_path / "mobilenet_v3.onnx"]
    for names in others:  # the temperature was not fitted on these
        other = EmotionRecognizer(names)
        assert other.classifier.temperature == 1 and other.threshold != 0.625
    assert own != 0.625
    none = {"ensemble_temperature": 1.0, "ensemble_threshold": None}
    (tmp_path / "results.json").write_text(json.dumps(kept | none))
    assert np.array_equal(EmotionRecognizer(both).classify(crops), mean)
    (tmp_path / "results.json").write_text(json.dumps(kept | {"ensemble_temperature": 0}))
    with pytest.raises(ModelError, match="temperature"):
        EmotionRecognizer(both).classify(crops)


@pytest.mark.parametrize("threshold", [0.0, 0.1428, 0.1429, 1.0])
def test_the_threshold_of_the_caller_comes_first(tmp_path, portrait, threshold):
    even = tiny_model(tmp_path / "even.onnx", OURS | {"threshold": "0.99"})  # says 1/7 of everything
    assert EmotionRecognizer(even, threshold=threshold)(portrait).faces[0].is_confident == (threshold <= 0.1428)


WRONG = [
    ("threads", 0), ("threads", -1), ("threshold", -0.1), ("threshold", 2), ("model", []), ("device", "abacus"),
    ("prior", "happy"), ("prior", [1, 2]), ("prior", {"happy": 1}), ("prior", dict.fromkeys(EMOTIONS, -1)),
    ("prior", dict.fromkeys(EMOTIONS, 0)), ("prior", dict.fromkeys([*EMOTIONS, "joy"], 1)), ("prior", 5),
]  # fmt: skip


@pytest.mark.parametrize("name, value", WRONG)
def test_options_that_cannot_be(name, value):
    with pytest.raises(ModelError, match=name):
        EmotionRecognizer(**{name: value})


@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 100])
def test_any_number_of_crops(n, recognizer):
    crops = np.random.default_rng(0).integers(0, 256, (n, 48, 48), dtype=np.uint8)
    answers = recognizer.classify(crops)
    assert answers.shape == (n, 7) and answers.dtype == np.float32
    assert n == 0 or answers[-1] == pytest.approx(recognizer.classify(crops[-1:])[0], abs=1e-4)


# --- crops of one's own ---------------------------------------------------------------------------


def test_a_session_lets_go_of_the_cores():
    recognizer, waited = EmotionRecognizer(threads=4), 0.0
    for _ in range(10):
        recognizer.classify(np.zeros((32, 48, 48), np.uint8))
        before = time.process_time()
        time.sleep(0.02)
        waited += time.process_time() - before
    assert waited < 0.1  # seconds of computing in 0.2 seconds of nothing to do; 0.2 for each thread that spins


def test_a_whole_picture_is_a_face(recognizer, tmp_path):
    face = draw_face("happy", seed=4)  # 48 x 48, as in FER2013
    probs = recognizer.classify(np.asarray(face)[None])[0].tolist()
    face.convert("RGB").save(tmp_path / "face.png")
    whole = EmotionRecognizer(crop="whole")
    for source in (face, tmp_path / "face.png", np.asarray(face)):
        singly, listed, streamed = whole(source), whole([source])[0], next(whole(iter([source])))
        for result in (singly, listed, streamed, recognizer(source, crop="whole")):
            assert [list(f.probabilities.values()) for f in result] == [probs]  # bit for bit
            assert (result[0].box, result[0].detection_score, result[0].landmarks) == ((0, 0, 48, 48), 1.0, ())
    assert recognizer.explain(whole(face)[0]).heatmap.shape == (48, 48)
    wide = whole(Image.new("L", (900, 30)))
    assert wide[0].box == (0, 0, 900, 30) and wide[0].crop.shape == (48, 48)


def test_boxes_of_one_s_own(portrait, recognizer):
    found = recognizer(portrait)
    x, y, w, h = found[0].box
    boxes = [(x, y, w, h), (0.5, 0.5, 99.25, 50.0), (-30, 350, 100, 100)]
    for given in (boxes, np.array(boxes), [list(box) for box in boxes]):
        result = recognizer(portrait, crop=given)
        assert [f.box for f in result] == [(x, y, w, h), (0, 0, 100, 50), (0, 350, 70, 50)]
        assert all(f.crop.shape == (48, 48) for f in result)
    assert recognizer(portrait, crop=[]).faces == [] and "No face" in recognizer(portrait, crop=[]).message
    assert len(EmotionRecognizer(crop=boxes)([portrait] * 3)[2]) == 3


def test_faces_that_were_found_before(portrait, recognizer):
    assert recognizer(portrait, crop=detect_faces(portrait)).to_dict() == recognizer(portrait).to_dict()
    assert len(recognizer(portrait)[0].landmarks) == 6
    assert len(recognizer(portrait).to_dict()["faces"][0]["landmarks"]) == 6


BAD_BOXES = {
    "word": "face", "numbers": [1, 2, 3, 4], "three": [(1, 2, 3)], "empty": [(5, 5, 0, 9)], "nan": [(0, 0, np.nan, 9)],
    "words": [("a", "b", "c", "d")], "outside": [(4000, 0, 9, 9)], "vast": [(0, 0, 1e9, 1e9)],
    "above": [(0, -50, 50, 50)],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BOXES)
def test_boxes_that_cannot_be(name, portrait, recognizer):
    with pytest.raises(ImageError, match=r"box|crop"):
        recognizer(portrait, crop=BAD_BOXES[name])


# --- class frequencies ----------------------------------------------------------------------------


def test_a_given_prior_moves_each_face_by_itself(portrait, recognizer):
    crops = np.stack([np.asarray(draw_face(emotion, 4)) for emotion in EMOTIONS])
    reference = reference_prior(recognizer.metadata)
    expected = adapt_prior(recognizer.classify(crops), np.full(7, 1 / 7), reference)
    for prior in (dict.fromkeys(EMOTIONS, 3), [1] * 7, np.ones(7)):
        even = EmotionRecognizer(prior=prior)
        assert np.array_equal(even.classify(crops), expected) and even.classify(crops).dtype == np.float32
        assert np.allclose(even.classify(crops[2:3]), expected[2:3], atol=1e-6)
        assert np.array_equal(pickle.loads(pickle.dumps(even)).classify(crops), expected)
    same = EmotionRecognizer(prior=reference)
    assert same(portrait)[0].probabilities == pytest.approx(recognizer(portrait)[0].probabilities, abs=1e-6)
    never = EmotionRecognizer(prior=dict.fromkeys(EMOTIONS, 1) | {"happy": 0})(portrait)
    assert never[0].probabilities["happy"] == 0 and sum(never[0].probabilities.values()) == pytest.approx(1)
    only = EmotionRecognizer(prior=dict.fromkeys(EMOTIONS, 0) | {"fear": 1})(portrait)
    assert only[0].emotion == "fear" and only[0].confidence == 1


def test_an_estimated_prior_comes_from_the_faces_of_the_call(portrait, recognizer):
    em, crop = EmotionRecognizer(prior="em"), recognizer(portrait)[0].crop
    alone, before = em(portrait)[0].confidence, recognizer(portrait)[0].confidence
    listed = [result[0].confidence for result in em([portrait] * 40)]
    streamed = [result[0].confidence for result in em(iter([portrait] * 80))]
    assert before <= alone + 1e-6 and alone < listed[0] and len({round(p, 4) for p in listed}) == 1
    assert streamed == sorted(streamed) and streamed[-1] > streamed[0]
    assert em(portrait)[0].confidence == alone  # nothing is kept from one call to the next
    assert em.classify(np.stack([crop] * 40))[0].max() == pytest.approx(listed[0], abs=1e-4)
    assert em([]) == [] and em(Image.new("RGB", (99, 99))).faces == [] and em.classify(crop[None][:0]).shape == (0, 7)
    assert em.explain(crop).probability == pytest.approx(before, abs=1e-4)


# --- devices --------------------------------------------------------------------------------------


@pytest.fixture
def providers(monkeypatch):
    "ONNX Runtime as if it had some providers, of which some do not start."
    real = ort.InferenceSession

    def pretend(installed, broken=(), failing=()):
        opened = []

        def session(model, options, providers):
            opened.append(providers)
            if providers[0] in failing:
                raise RuntimeError("no such device")
            made = real(model, options, providers=["CPUExecutionProvider"])
            used = providers[1:] if providers[0] in broken else providers
            monkeypatch.setattr(type(made), "get_providers", lambda self: used)
            return made

        monkeypatch.setattr(ort, "get_available_providers", lambda: [*installed, "CPUExecutionProvider"])
        monkeypatch.setattr(ort, "InferenceSession", session)
        runtime._sessions.clear()
        return opened

    yield pretend
    runtime._sessions.clear()


@pytest.mark.parametrize("device", [name for name in runtime.DEVICES if name != "cpu"])
def test_a_device_that_is_there_is_used(device, providers):
    provider = runtime.DEVICES[device][0]
    opened = providers([provider])
    EmotionRecognizer("custom_cnn", device=device).classify(np.zeros((1, 48, 48), np.uint8))
    assert opened == [[provider, "CPUExecutionProvider"]]


@pytest.mark.parametrize("device", [name for name in runtime.DEVICES if name != "cpu"])
def test_a_device_that_is_not_there_names_its_package(device, providers):
    providers([])
    with pytest.raises(ModelError, match=runtime.DEVICES[device][1]) as error:
        EmotionRecognizer("custom_cnn", device=device)
    assert device in str(error.value) and len(str(error.value)) < 300


@pytest.mark.parametrize("how", ["broken", "failing"])
def test_a_device_that_does_not_start(how, providers):
    "Named, it is an error; else the next one is taken."
    cuda = "CUDAExecutionProvider"
    opened = providers([cuda], **{how: [cuda]})
    with pytest.raises(ModelError, match=r"'cuda' is installed, but does not start"):
        EmotionRecognizer("custom_cnn", device="cuda")
    opened.clear()
    EmotionRecognizer("custom_cnn", device="auto")
    assert [one[0] for one in opened] == [cuda, "CPUExecutionProvider"]


def test_auto_takes_the_processor_where_nothing_else_is(providers):
    opened = providers(["CoreMLExecutionProvider", "AzureExecutionProvider"])
    EmotionRecognizer("custom_cnn")
    assert opened == [["CPUExecutionProvider"]]


def test_a_bad_file_is_a_bad_file_on_any_device(providers, tmp_path):
    providers(["CUDAExecutionProvider"])
    (tmp_path / "bad.onnx").write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"bad\.onnx is not a model"):
        EmotionRecognizer(tmp_path / "bad.onnx")


# --- explanations ---------------------------------------------------------------------------------


@pytest.mark.parametrize("top, left", [(0, 0), (30, 10), (18, 30)])
@pytest.mark.parametrize("side", [48, 96])
def test_the_map_is_bright_where_the_judge_looks(top, left, side):
    "A judge that sees the contrast of one region only."
    where = slice(top * side // 48, (top + 16) * side // 48), slice(left * side // 48, (left + 16) * side // 48)

    def judge(crops):
        fear = crops[:, where[0], where[1]].std((1, 2)) / 128
        return np.stack([(1 - fear) / 6] * 2 + [fear] + [(1 - fear) / 6] * 4, 1)

    crop = np.random.default_rng(1).integers(0, 256, (side, side), dtype=np.uint8)
    why = occlusion_map(judge, crop, "fear")
    inside = np.zeros((side, side), bool)
    inside[where] = True
    assert why.heatmap.shape == (side, side) and why.heatmap[inside].mean() > 5 * why.heatmap[~inside].mean()
    assert np.unravel_index(why.heatmap.argmax(), why.heatmap.shape) in np.argwhere(inside)


def test_a_face_of_a_result_can_be_explained(portrait, recognizer):
    face = recognizer(portrait).faces[0]
    why = recognizer.explain(face)
    assert (why.emotion, why.probability) == (face.emotion, pytest.approx(face.confidence, abs=1e-4))
    assert why.draw(100).size == (100, 100) and why.draw().mode == "RGB"
    with pytest.raises(ModelError, match="surprise"):
        recognizer.explain(face, "joy")


# --- living together ------------------------------------------------------------------------------


def test_many_threads_get_what_one_gets(portrait, recognizer):
    pictures = [portrait, portrait.resize((300, 300)), Image.new("RGB", (320, 240))]
    alone, answers = [recognizer(p).to_dict() for p in pictures], {}

    def work(i):
        answers[i] = [recognizer(p).to_dict() for p in pictures]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert list(answers.values()) == [alone] * 6


def test_warnings_of_others_are_heard_afterwards(portrait, recognizer):
    before = list(warnings.filters)
    recognizer([portrait] * 20)
    assert warnings.filters == before


def test_a_face_of_one_s_own_size_is_found_as_small_as_wanted(portrait):
    assert len(detect_faces(portrait)) == 1 and detect_faces(portrait, min_face=390) == []


def test_nothing_is_printed_and_torch_stays_out():
    code = """
import sys
from fer_nb.data.synthetic import draw_face
from fer_nb.inference import EmotionRecognizer
assert len(EmotionRecognizer()(draw_face("happy", 4, 300, zoom=0.6)).faces) == 1
heavy = {"torch", "fastai", "sklearn", "streamlit", "jax", "tensorflow"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_answers_do_not_depend_on_threads_batches_or_the_process(tmp_path):
    faces = np.stack([np.asarray(draw_face(EMOTIONS[i % 7], i)) for i in range(40)])
    code = ("import sys, numpy; from fer_nb.inference import EmotionRecognizer; "
            "sys.stdout.buffer.write(EmotionRecognizer(threads=1).classify(numpy.load(sys.argv[1])).tobytes())")
    with EmotionRecognizer(threads=1) as recognizer:
        first = recognizer.classify(faces)
    for threads in (1, 2, 4):
        with EmotionRecognizer(threads=threads) as recognizer:
            for n in (1, 7, 40):
                again = np.concatenate([recognizer.classify(faces[i : i + n]) for i in range(0, 40, n)])
                np.testing.assert_allclose(again, first, rtol=0, atol=1e-6)
    np.save(tmp_path / "faces.npy", faces)
    other = subprocess.run([sys.executable, "-c", code, tmp_path / "faces.npy"], capture_output=True, check=True)
    np.testing.assert_array_equal(np.frombuffer(other.stdout, np.float32).reshape(-1, 7), first)


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_table_has_the_columns_of_the_model_file(ending, tmp_path):
    model = tiny_model(tmp_path / "three.onnx", {"emotions": "sad,happy,content"}, n=3)
    draw_face("happy", 1, size=480, zoom=0.6).save(tmp_path / "face.png")
    done = fer_nb("predict", tmp_path / "face.png", "--model", model, "--out", tmp_path / f"t.{ending}")
    assert done.exit_code == 0
    written = (tmp_path / f"t.{ending}").read_text()
    assert "content" in written and "angry" not in written and "face.png" in written
