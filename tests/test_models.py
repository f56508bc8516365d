"""Every model in the table keeps the same promises."""

import dataclasses

import numpy as np
import pytest
import torch

from fer_nb.augmentation import Preprocess
from fer_nb.core import MODELS, TrainingError
from fer_nb.data import drawn_data
from fer_nb.export import largest_gap, to_onnx
from fer_nb.training import (
    FaceClassifier,
    build_net,
    check_model,
    fit,
    load_torch,
    make_learner,
    model_module,
    model_recipe,
    start_net,
    train,
)

every_model = pytest.mark.parametrize("model", MODELS)


@every_model
def test_conformance(model):
    check_model(model)


@every_model
def test_leaves_as_onnx_and_says_the_same(model):
    recipe = model_recipe(model)
    torch.manual_seed(0)
    clf = FaceClassifier(build_net(model), Preprocess(64, recipe.channels)).eval()
    assert largest_gap(clf, to_onnx(clf, {}), n=9) < 1e-4


@every_model
def test_learns_drawn_faces(model):
    by_heart = dict(flip=0, rotation=0, zoom=0, shift=0, brightness=0, contrast=0, erase=0, mixup=0, label_smoothing=0)
    quick = dict(size=32, small_size=0, epochs=30, batch_size=70, lr=3e-3, freeze_epochs=0, early_lr=1, ema=0)
    recipe = model_recipe(model, start="none", schedule="one_cycle", class_weight_power=0, **quick, **by_heart)
    learn = make_learner(start_net(model, recipe), drawn_data(70), recipe, model_module(model).GROUPS)
    fit(learn, recipe)
    first, *_, last = (row[0] for row in learn.recorder.values)
    assert last < 0.6 * first


@every_model
def test_frozen_layers_do_not_move(model, tmp_path):
    data, how = drawn_data(70), dict(start="none", size=48, small_size=0, epochs=1, batch_size=16, ema=0)
    train(model, data, out=tmp_path, log=lambda _: None, frozen=1, freeze_epochs=1, **how)
    after = load_torch(tmp_path / f"best_{model}.pth")["model_state_dict"]
    torch.manual_seed(0)
    before = dict(build_net(model).named_parameters())
    same = {name for name, p in before.items() if torch.equal(p.half() if p.ndim > 1 else p, after[name])}
    first = [n for n in before if any(f"{n}.".startswith(f"{g}.") for g in model_module(model).GROUPS[0])]
    assert set(first) == same


def test_a_part_without_images_is_refused(tmp_path):
    data = drawn_data(70)
    empty = data["PublicTest"][np.arange(0)]
    with pytest.raises(TrainingError, match="no image in PublicTest"):
        train("custom_cnn", dataclasses.replace(data, parts=data.parts | {"PublicTest": empty}), out=tmp_path)
    assert list(tmp_path.iterdir()) == []
