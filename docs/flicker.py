"""How often does the label of a still face change from one frame of a video to the next?

    python docs/flicker.py [--data fer2013.zip] [--faces N]

A face of PublicTest is put into a gray photo, as in docs/framing.py. A video of this photo is simulated: each frame
has its own noise and is compressed as a JPEG. Every frame passes the app's camera pipeline: detector, crop, model and
smoothing. Figures go to models/flicker.json. Without --data and FER2013 in the environment the faces are synthetic,
and nothing is written.
"""

import argparse
import io
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from framing import SMALL_ZOOM, PhotoSetup, sample
from PIL import Image
from tqdm import tqdm

from fer_nb.core import atomic_write, available_models, models_dir
from fer_nb.crops import DetectedImage, detect_and_crop
from fer_nb.data.load import load_data
from fer_nb.inference import EmotionRecognizer, make_results
from fer_nb.video.reader import Frame
from fer_nb.video.tracking import MAX_AGE, SMOOTH, FaceFollower

FRAMES, FPS = 8, 10  # of each face
NOISE, QUALITY = 2.5, 80  # sigma, 0–255, in each color of each pixel; of the JPEG
#: row -> how the face is photographed: its 48 pixels become 192, or the median face gets 64
PHOTOS = {"large face": PhotoSetup(), "face of 64 pixels": PhotoSetup(SMALL_ZOOM)}


def noisy_frames(photo: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    "Frames, uint8 [side, side, 3], of a photo that does not change."
    rng = np.random.default_rng(seed)
    for _ in range(FRAMES):
        noisy = np.clip(np.rint(photo + rng.normal(0, NOISE, photo.shape)), 0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(file := io.BytesIO(), "JPEG", quality=QUALITY)
        yield np.asarray(Image.open(file))


def detect_all(faces: np.ndarray, setup: PhotoSetup, name: str) -> list[list[DetectedImage]]:
    "The detected frames of the simulated video of each face."
    def one(i: int) -> list[DetectedImage]:
        return [detect_and_crop(frame, thorough=False) for frame in noisy_frames(setup.render(faces[i], 1), i)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(tqdm(pool.map(one, range(len(faces))), name, len(faces)))


def count_label_changes(
    frames: list[DetectedImage], probs: np.ndarray, recognizer: EmotionRecognizer, smooth: float
) -> np.ndarray:
    "Of two neighboring frames with the same face: how many there are, and how many have two labels."
    follow = FaceFollower(smooth, MAX_AGE, recognizer.threshold, recognizer.emotions)
    seen, counts = {}, np.zeros(2, int)
    for i, result in enumerate(make_results(frames, probs, recognizer.threshold, recognizer.emotions)):
        shown = follow(Frame(i, i / FPS, result.image), result.faces)
        now = {track: face.emotion for track, face in zip(shown.tracks, shown.faces, strict=True)}
        both = now.keys() & seen.keys()
        counts += len(both), sum(now[track] != seen[track] for track in both)
        seen = now
    return counts


def measure(videos: list[list[DetectedImage]], model: str) -> dict[str, float]:
    "Pairs of frames, and the fraction of them in which the label changes, without and with smoothing."
    with EmotionRecognizer(model, threads=1) as recognizer:
        probs = [recognizer.classify(np.concatenate([entry.crops for entry in frames])) for frames in videos]
        (pairs, single), (_, smoothed) = (
            sum(count_label_changes(*video, recognizer, smooth) for video in zip(videos, probs, strict=True))
            for smooth in (0, SMOOTH))  # fmt: skip
    return dict(pairs=int(pairs), one_frame=single / pairs, smoothed=smoothed / pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="the archive; without it $FER2013, else synthetic faces")
    parser.add_argument("--faces", type=int, default=300, help="of PublicTest, drawn with a fixed seed")
    args = parser.parse_args()
    data = load_data(args.data)
    faces = sample(data["PublicTest"], args.faces).images
    figures: dict[str, dict] = {name: {} for name in available_models()}
    for row, setup in PHOTOS.items():
        videos = detect_all(faces, setup, row)
        for name, rows in figures.items():
            rows[row] = r = measure(videos, name)
            print("  {:18}{:6} pairs  {:.2%} change, {:.2%} smoothed".format(name, *r.values()))
    if not data.synthetic:
        about = dict(faces=len(faces), frames=FRAMES, fps=FPS, noise=NOISE, quality=QUALITY, smooth=SMOOTH)
        with atomic_write(models_dir() / "flicker.json") as part:
            part.write_text(json.dumps(about | dict(fingerprint=data.fingerprint, models=figures), indent=1) + "\n")


if __name__ == "__main__":
    main()
