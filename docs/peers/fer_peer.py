"The answers of PyPI's fer for crops: python fer_peer.py fer CROPS.bin ANSWERS.bin EMOTIONS"

import sys
import time

import cv2
import numpy as np
from fer.fer import FER

crops = np.fromfile(sys.argv[2], np.uint8).reshape(-1, 48, 48)
detector, answers = FER(), []
start = time.perf_counter()
for crop in crops:
    face = FER._FER__preprocess_input(cv2.resize(crop, (64, 64)), True)
    answers.append(np.ravel(detector._classify_emotions(face[None])))
print(1000 * (time.perf_counter() - start) / len(crops))
names = FER._get_labels()
order = [next(i for i, name in names.items() if name == one) for one in sys.argv[4].split(",")]
np.float32(answers)[:, order].tofile(sys.argv[3])
