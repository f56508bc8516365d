"""The accuracy lost between photo and crop, cause by cause: python docs/framing.py [--data fer2013.zip] [--faces N]

A face of PublicTest is put into the middle of a gray photo, 48 pixels becoming 192, and cut out again: where it is
known to be, and where the detector finds it. Figures go to models/framing.json. Without --data and FER2013 in the
environment the faces are synthetic, and nothing is written.
"""

import argparse
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageFilter
from tqdm import tqdm

from fer_nb.core import atomic_write, available_models, models_dir
from fer_nb.crops import CROP_OFFSET, CROP_SCALE, crop_face
from fer_nb.data.dataset import Split
from fer_nb.data.load import load_data
from fer_nb.faces import Face, detect_faces
from fer_nb.inference import EmotionRecognizer

BORDER = 40  # pixels of FER2013 around the frame
SMALL_ZOOM = 1.53  # pixels for one of FER2013: the median face, 42 pixels wide, gets 64


def sample(split: Split, n: int | None) -> Split:
    "So many faces of a split, the same in every run; None: all."
    return split[np.random.default_rng(1).permutation(len(split))[:n]]


@dataclass(frozen=True)
class PhotoSetup:
    "How a face is photographed."

    zoom: float = 4.0  # pixels for one of FER2013
    angle: float = 0.0  # degrees; every second face is turned the other way
    blur: float = 0.0  # sigma, pixels of FER2013
    border: str = "gray"  # else a mode of numpy.pad

    def render(self, face: np.ndarray, sign: int) -> np.ndarray:
        "A face, uint8 [48, 48], as a photo, uint8 [side, side, 3]."
        gray = int(face.mean())
        more = dict(constant_values=gray) if self.border == "gray" else {}
        padded = np.pad(face, BORDER, "constant" if more else self.border, **more)
        side = round(self.zoom * len(padded))
        image = Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC)
        if self.blur:
            image = image.filter(ImageFilter.GaussianBlur(self.blur * self.zoom))
        if self.angle:
            image = image.rotate(sign * self.angle, Image.Resampling.BICUBIC, fillcolor=gray)
        return np.repeat(np.asarray(image)[..., None], 3, 2)


def known_face(photo: np.ndarray, roll: float) -> Face:
    "A face with points for which `crop_face` cuts out FER2013's own frame."
    points = np.array([[-1, -1], [1, -1], [0, 0], [0, 1], [-2, -0.5], [2, -0.5]])
    points = points - points.mean(0)
    points /= np.sqrt((points**2).sum()) * CROP_SCALE  # the frame's side is 1
    points -= np.array(CROP_OFFSET) / CROP_SCALE
    c, s = np.cos(np.radians(roll)), np.sin(np.radians(roll))
    side = len(photo) * 48 / (48 + 2 * BORDER)
    points = points @ [[c, s], [-s, c]] * side + len(photo) / 2
    return Face((0, 0, 1, 1), 1.0, tuple(map(tuple, points)))


def detect_center_face(photo: np.ndarray) -> Face | None:
    "The face in the middle, as `detect_faces` finds it: by the fast way, else by the thorough one."
    faces = detect_faces(photo, thorough=False) or detect_faces(photo)
    reach = 20 / (48 + 2 * BORDER) * len(photo)
    middle = [f for f in faces if np.abs(np.mean(f.landmarks, 0) - len(photo) / 2).max() < reach]
    return max(middle, key=lambda face: face.detection_score, default=None)


#: cause -> how the photo is taken
KNOWN_FACE_SETUPS = {
    "enlarged 4 times and reduced again": PhotoSetup(),
    "turned by 15° and back": PhotoSetup(angle=15),
    "face of 64 pixels": PhotoSetup(SMALL_ZOOM),
    "blurred, sigma 0.5": PhotoSetup(blur=0.5),
}
#: row -> how the photo is taken for the detector, and the borders that the crop is taken from
DETECTED_FACE_SETUPS = {
    "": (PhotoSetup(), ("gray", "edge", "reflect")),
    ", turned by 15°": (PhotoSetup(angle=15), ("gray",)),
    ", face of 64 pixels": (PhotoSetup(SMALL_ZOOM), ("gray",)),
}


def all_crops(faces: np.ndarray) -> dict[str, list[np.ndarray | None]]:
    "Row -> the crop of each face, None where it is not found."
    rows: dict[str, list] = {"stored": list(faces)}
    signs = [1 - 2 * (i % 2) for i in range(len(faces))]

    def known(i: int, setup: PhotoSetup) -> np.ndarray:
        photo = setup.render(faces[i], signs[i])
        return crop_face(photo, known_face(photo, -signs[i] * setup.angle))

    def found(i: int, setup: PhotoSetup, borders: tuple[str, ...]) -> list[np.ndarray | None]:
        face = detect_center_face(setup.render(faces[i], signs[i]))
        photos = (replace(setup, border=border).render(faces[i], signs[i]) for border in borders)
        return [face and crop_face(photo, face) for photo in photos]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for name, setup in KNOWN_FACE_SETUPS.items():
            work = pool.map(lambda i, setup=setup: known(i, setup), range(len(faces)))
            rows[name] = list(tqdm(work, name, len(faces)))
        for name, (setup, borders) in DETECTED_FACE_SETUPS.items():
            work = pool.map(lambda i, a=(setup, borders): found(i, *a), range(len(faces)))
            columns = zip(*tqdm(work, f"found{name}", len(faces)), strict=True)
            rows |= {f"found{name}, {b} border": list(crops) for b, crops in zip(borders, columns, strict=True)}
    return rows


def measure(rows: dict[str, list], labels: np.ndarray, model: str | list[str], tta: bool = False) -> list[dict]:
    "Faces found, and how many of these are recognized, by row: cut out, and as stored."
    table = []
    with EmotionRecognizer(model, tta=tta) as recognizer:
        stored = recognizer.classify(np.stack(rows["stored"])).argmax(1) == labels
        for name, crops in rows.items():
            is_found = np.array([crop is not None for crop in crops])
            correct = recognizer.classify(np.stack([c for c in crops if c is not None])).argmax(1) == labels[is_found]
            table.append(dict(row=name, faces=len(crops), found=int(is_found.sum()), correct=int(correct.sum()),
                              stored=int(stored[is_found].sum())))  # fmt: skip
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", help="the archive; without it $FER2013, else synthetic faces")
    parser.add_argument("--faces", type=int, help="so many of PublicTest, drawn with a fixed seed; else all")
    args = parser.parse_args()
    data = load_data(args.data)
    faces = sample(data["PublicTest"], args.faces)
    rows, labels = all_crops(faces.images), faces.labels
    names = available_models()
    # all causes with the default model; the others where the detector and nothing else is at work
    short = {name: crops for name, crops in rows.items() if name == "stored" or name.endswith("gray border")}
    tables = {names[0]: measure(rows, labels, names[0])}
    tables |= {name: measure(short, labels, name) for name in names[1:]}
    tables["+".join(names)] = measure(short, labels, names)
    for name, table in tables.items():
        print(name)
        for r in table:
            found, lost = r["found"] / r["faces"], (r["stored"] - r["correct"]) / r["found"]
            print(f"  {r['row']:38} found {found:6.1%}  {r['correct'] / r['found']:.1%}, lost {100 * lost:+.2f} points")
    if not data.synthetic:
        with atomic_write(models_dir() / "framing.json") as part:
            part.write_text(json.dumps(tables, indent=1) + "\n")


if __name__ == "__main__":
    main()
