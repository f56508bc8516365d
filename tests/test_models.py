"""Every model in the table keeps the same promises."""

import dataclasses

import numpy as np
import pytest
import torch

from fer_nb.augmentation import Preprocess
from fer_nb.core import MODELS, TrainingError
from fer_nb.data.synthetic import synthetic_dataset
from fer_nb.export import max_abs_diff, to_onnx
from fer_nb.model_api import (
    FaceClassifier,
    build_model,
    check_model,
    init_model,
    load_checkpoint,
    model_module,
    model_recipe,
)
from fer_nb.recipe import AUGMENTATION
from fer_nb.training.learner import fit, make_learner, train

every_model = pytest.mark.parametrize("model", MODELS)


@every_model
def test_conformance(model):
    check_model(model)


@every_model
def test_leaves_as_onnx_and_says_the_same(model):
    recipe = model_recipe(model)
    torch.manual_seed(0)
    clf = FaceClassifier(build_model(model), Preprocess(64, recipe.channels)).eval()
    assert max_abs_diff(clf, to_onnx(clf, {}), n=9) < 1e-4


@every_model
def test_learns_synthetic_faces(model):
    plain = dict.fromkeys((*AUGMENTATION, "mixup_alpha", "label_smoothing"), 0)
    quick = dict(size=32, progressive_size=0, epochs=30, batch_size=70, lr=3e-3, freeze_epochs=0, lr_ratio=1)
    quick |= dict(ema_decay=0, init="none", schedule="one_cycle", class_weight_power=0)
    recipe = model_recipe(model, **quick, **plain)
    learn = make_learner(init_model(model, recipe), synthetic_dataset(70), recipe, model_module(model).LAYER_GROUPS)
    fit(learn, recipe)
    first, *_, last = (row[0] for row in learn.recorder.values)
    assert last < 0.6 * first


@every_model
def test_frozen_layers_do_not_move(model, tmp_path):
    settings = dict(init="none", size=48, progressive_size=0, epochs=1, batch_size=16, ema_decay=0)
    train(model, synthetic_dataset(70), out=tmp_path, log=lambda _: None, freeze_groups=1, freeze_epochs=1, **settings)
    after = load_checkpoint(tmp_path / f"best_{model}.pth")["model_state_dict"]
    torch.manual_seed(0)
    before = dict(build_model(model).named_parameters())
    same = {name for name, p in before.items() if torch.equal(p.half() if p.ndim > 1 else p, after[name])}
    first = [n for n in before if any(f"{n}.".startswith(f"{g}.") for g in model_module(model).LAYER_GROUPS[0])]
    assert set(first) == same


def test_a_part_without_images_is_refused(tmp_path):
    data = synthetic_dataset(70)
    empty = data["PublicTest"][np.arange(0)]
    with pytest.raises(TrainingError, match="no image in PublicTest"):
        train("custom_cnn", dataclasses.replace(data, splits=data.splits | {"PublicTest": empty}), out=tmp_path)
    assert list(tmp_path.iterdir()) == []
