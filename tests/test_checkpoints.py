"""Checkpoints that others made: their weights are found whatever stands around them, and nothing in them runs."""

import argparse
from collections import OrderedDict
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="checkpoints need the [train] extra")
from torch.optim.swa_utils import AveragedModel

from fer_nb.core import ModelError, models_dir
from fer_nb.model_api import build_model, extract_state_dict, load_checkpoint, load_partial_state

NET = build_model("resnet18")
STATE = NET.state_dict()


def named(prefix, state=STATE):
    "The weights with something before each name."
    return OrderedDict((prefix + name, tensor) for name, tensor in state.items())


KEYS = ("ema", "state_dict", "weights", "net", "model", "model_state_dict")
PREFIXES = ("module.", "module.module.", "_orig_mod.", "model.", "module._orig_mod.")
ZEROS = {name: tensor * 0 for name, tensor in STATE.items()}
OTHERS = {key: {key: STATE, "epoch": 3} for key in KEYS} | {prefix: named(prefix) for prefix in PREFIXES}
OTHERS |= {
    "plain": STATE,
    "any prefix": named("student.backbone."),
    "lightning": {"state_dict": named("model.") | {"criterion.weight": torch.ones(7)}, "global_step": 4},
    "ema in a dict": {"ema": {"state_dict": named("module.")}, "state_dict": ZEROS},
    "swa": AveragedModel(NET).state_dict(),
    "half": {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in STATE.items()},
    "figures": {"net": STATE, "acc": np.float64(71.5), "best": np.float32(1), "epoch": np.int64(3), "ok": np.bool_(1)},
    "settings": {"state_dict": STATE, "args": argparse.Namespace(lr=0.1, name="x", sizes=[1, 2])},
}


@pytest.mark.parametrize("name", OTHERS)
def test_their_weights_are_found(name, tmp_path):
    torch.save(OTHERS[name], tmp_path / "theirs.pth")
    net = build_model("resnet18")
    assert load_partial_state(net, extract_state_dict(load_checkpoint(tmp_path / "theirs.pth")), ()) == []
    for key, tensor in net.state_dict().items():
        assert torch.allclose(tensor.float(), STATE[key].float(), atol=1e-2), key


def test_names_of_ours_are_no_prefix():
    for path in models_dir().glob("best_*.pth"):
        saved = load_checkpoint(path)
        assert extract_state_dict(saved).keys() == saved["model_state_dict"].keys()


class Mine:
    "What somebody else pickles."


SCRIPT = torch.jit.script(torch.nn.ReLU())
REFUSED = {
    "whole network": (partial(torch.save, NET), "torch.nn|torchvision"),
    "own class": (partial(torch.save, {"state_dict": STATE, "config": Mine()}), "Mine"),
    "TorchScript": (SCRIPT.save, "TorchScript"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REFUSED)
def test_what_would_run_code_is_told_how_to_be_saved(name, tmp_path):
    save, word = REFUSED[name]
    save(str(tmp_path / "theirs.pth"))
    with pytest.raises(ModelError, match=rf"theirs\.pth holds \S*({word})\S*, .*torch\.save\(model\.state_dict\(\)"):
        load_checkpoint(tmp_path / "theirs.pth")


def test_no_weights_are_told_how_to_be_saved():
    for content in ({}, [1], {"state_dict": {}}, {"state_dict": {"a": 1}}, {0: torch.ones(1)}):
        with pytest.raises(ModelError, match=r"holds no weights.*torch\.save"):
            extract_state_dict(content)
