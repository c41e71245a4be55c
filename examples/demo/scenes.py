"""What the demo's videos show: a surface (appearance) on which things move in one way (motion)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Pixels = npt.NDArray[np.float32]
Generator = np.random.Generator

SUPERSAMPLED: Final = 1.25
"""The surface is this much larger than the picture, so that the camera can shake over it."""


@dataclass(frozen=True, slots=True)
class Appearance:
    """Colours (RGB) of a surface and of what moves on it, and the pattern of the surface."""

    name: str
    ground: tuple[tuple[int, int, int], tuple[int, int, int]]
    thing: tuple[tuple[int, int, int], tuple[int, int, int]]
    pattern: Callable[[Generator, int, int], Pixels]


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a thing is: centre as a share of width and height, turn in degrees, size as a factor."""

    x: float
    y: float
    turn_degrees: float = 0.0
    size: float = 1.0


Trajectory = Callable[[float], Pose]
"""Seconds since the start to the pose of a thing."""


def boards(rng: Generator, height: int, width: int) -> Pixels:
    """Returns long planks, ``float32[H, W]`` in 0 to 1."""
    plank = max(6, int(height * rng.uniform(0.07, 0.11)))
    shade = rng.uniform(0.2, 0.8, size=height // plank + 2).astype(np.float32)
    rows = (np.arange(height) + rng.integers(plank)) // plank
    surface = np.repeat(shade[rows][:, None], width, axis=1)
    seams = ((np.arange(height) + rng.integers(plank)) % plank) < max(1, plank // 8)
    surface[seams] *= 0.4
    return surface


def grass(rng: Generator, height: int, width: int) -> Pixels:
    """Returns upright blades: noise blurred along the vertical, ``float32[H, W]`` in 0 to 1."""
    noise = rng.random((height, width), dtype=np.float32)
    blades = cv2.GaussianBlur(noise, (1, 0), sigmaX=0.5, sigmaY=max(2.0, height / 40))
    return _stretched(np.asarray(blades, np.float32))


def bricks(rng: Generator, height: int, width: int) -> Pixels:
    """Returns staggered bricks with joints, ``float32[H, W]`` in 0 to 1."""
    tall = max(8, int(height * rng.uniform(0.09, 0.14)))
    wide = int(tall * 2.2)
    y, x = np.mgrid[0:height, 0:width]
    row = y // tall
    column = (x + (row % 2) * (wide // 2)) // wide
    shade = rng.uniform(0.35, 0.9, size=(int(row.max()) + 1, int(column.max()) + 1)).astype(np.float32)
    joint = (y % tall < max(1, tall // 7)) | ((x + (row % 2) * (wide // 2)) % wide < max(1, tall // 7))
    return np.where(joint, np.float32(0.0), shade[row, column])


def stars(rng: Generator, height: int, width: int) -> Pixels:
    """Returns soft clouds with bright points, ``float32[H, W]`` in 0 to 1."""
    coarse = rng.random((6, 8), dtype=np.float32)
    sky = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) * 0.45
    for _ in range(int(height * width / 350)):
        cv2.circle(sky, (int(rng.integers(width)), int(rng.integers(height))), int(rng.integers(1, 3)), 1.0, -1)
    return np.clip(np.asarray(sky), 0, 1).astype(np.float32)


def _stretched(values: Pixels) -> Pixels:
    low, high = np.percentile(values, [2, 98]).astype(np.float32)
    stretched: Pixels = np.clip((values - low) / np.maximum(high - low, np.float32(1e-6)), 0, 1).astype(np.float32)
    return stretched


COURT: Final = Appearance("court", ((150, 96, 48), (214, 160, 98)), ((30, 60, 150), (240, 240, 235)), boards)
MEADOW: Final = Appearance("meadow", ((24, 84, 22), (140, 190, 70)), ((225, 60, 50), (250, 220, 70)), grass)
BRICK: Final = Appearance("brick", ((205, 200, 190), (140, 44, 36)), ((25, 25, 30), (90, 210, 220)), bricks)
NIGHT: Final = Appearance("night", ((8, 10, 34), (190, 200, 255)), ((235, 225, 170), (170, 90, 190)), stars)


def slide(rng: Generator) -> Trajectory:
    """Returns a motion across the picture, from one side to the other and again."""
    speed = rng.uniform(0.45, 0.8) * (1 if rng.random() < 0.5 else -1)
    start, height, turn = rng.random(), rng.uniform(0.3, 0.7), rng.uniform(0, 360)
    return lambda seconds: Pose(((start + speed * seconds) % 1.3) - 0.15, height, turn)


def spin(rng: Generator) -> Trajectory:
    """Returns a turn on the spot; at most 0.8 turns a second, so that 8 frames a second still show its sense."""
    rate = rng.uniform(0.45, 0.8) * 360 * (1 if rng.random() < 0.5 else -1)
    x, y, start = rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6), rng.uniform(0, 360)
    return lambda seconds: Pose(x, y, start + rate * seconds)


def grow(rng: Generator) -> Trajectory:
    """Returns a thing that swells and shrinks on the spot."""
    rate, phase = rng.uniform(0.6, 1.1), rng.uniform(0, 2 * np.pi)
    x, y, turn = rng.uniform(0.35, 0.65), rng.uniform(0.4, 0.6), rng.uniform(0, 360)
    return lambda seconds: Pose(x, y, turn, 1.0 + 0.55 * float(np.sin(2 * np.pi * rate * seconds + phase)))


def bounce(rng: Generator) -> Trajectory:
    """Returns a thing that jumps up and falls back like a ball."""
    rate, phase = rng.uniform(0.7, 1.2), rng.random()
    x, turn = rng.uniform(0.3, 0.7), rng.uniform(0, 360)

    def pose(seconds: float) -> Pose:
        beat = (rate * seconds + phase) % 1.0
        return Pose(x, 0.78 - 0.56 * 4 * beat * (1 - beat), turn)

    return pose


MOTIONS: Final = {"slide": slide, "spin": spin, "grow": grow, "bounce": bounce}

CLASSES: Final = {
    # The four of the court look alike in one frame (all things lie at any angle): only motion tells them apart.
    "court_slide": (COURT, "slide"),
    "court_spin": (COURT, "spin"),
    "court_grow": (COURT, "grow"),
    "court_bounce": (COURT, "bounce"),
    # These two move as court_slide does: only appearance tells the three apart.
    "meadow_slide": (MEADOW, "slide"),
    "brick_slide": (BRICK, "slide"),
    # These two differ from most in both; meadow_bounce shares its look with meadow_slide, its motion with court_bounce.
    "meadow_bounce": (MEADOW, "bounce"),
    "night_spin": (NIGHT, "spin"),
}
"""Class -> appearance and motion."""


class Scene:
    """One clip's picture at any time: a surface with clutter, one or two things that move, a shaking camera, noise.

    Args:
        name: a class of `CLASSES`.
        rng: decides everything that varies within the class; the scene is a function of its state.
        height, width: of the picture.
    """

    def __init__(self, name: str, rng: Generator, height: int, width: int) -> None:
        appearance, motion = CLASSES[name]
        self._rng = rng
        self._height, self._width = height, width
        self._tint = rng.uniform(-18, 18, size=3).astype(np.float32)
        self._light = float(rng.uniform(0.8, 1.15))
        self._surface = self._draw_surface(appearance)
        # Near and far things of one clip move alike, but not in step.
        sizes = [rng.uniform(0.5, 0.75)] + ([rng.uniform(0.3, 0.45)] if rng.random() < 0.5 else [])
        self._things = [(*self._draw_thing(appearance, int(height * size)), MOTIONS[motion](rng)) for size in sizes]
        self._shake = rng.uniform(0, 2 * np.pi, size=(2, 3))
        self._noise = rng.normal(0, rng.uniform(2, 7), size=(height + 32, width + 32)).astype(np.float32)

    def frame(self, seconds: float) -> Image:
        """Returns ``uint8[H, W, 3]`` RGB."""
        shift = self._camera(seconds)
        margin_y = (self._surface.shape[0] - self._height) // 2
        margin_x = (self._surface.shape[1] - self._width) // 2
        view = np.array([[1, 0, shift[0] - margin_x], [0, 1, shift[1] - margin_y]], dtype=np.float32)
        size = (self._width, self._height)
        picture = np.asarray(cv2.warpAffine(self._surface, view, size, borderMode=cv2.BORDER_REFLECT), np.float32)
        for thing, mask, trajectory in self._things:
            picture = self._paste(picture, thing, mask, trajectory(seconds), shift)
        dy, dx = self._rng.integers(0, 32, size=2)
        picture += self._noise[dy : dy + self._height, dx : dx + self._width, None]
        shown: Image = np.clip(picture, 0, 255).astype(np.uint8)
        return shown

    def _camera(self, seconds: float) -> tuple[float, float]:
        waves = np.sin(2 * np.pi * np.array([0.6, 1.3, 2.9]) * seconds + self._shake) @ np.array([1.0, 0.6, 0.3])
        return float(waves[0]) * self._width / 110, float(waves[1]) * self._height / 110

    def _colours(self, pair: tuple[tuple[int, int, int], tuple[int, int, int]], share: Pixels) -> Pixels:
        low, high = (np.array(colour, dtype=np.float32) for colour in pair)
        mixed: Pixels = ((low + (high - low) * share[..., None] + self._tint) * self._light).astype(np.float32)
        return mixed

    def _draw_surface(self, appearance: Appearance) -> Pixels:
        height, width = int(self._height * SUPERSAMPLED), int(self._width * SUPERSAMPLED)
        surface = self._colours(appearance.ground, appearance.pattern(self._rng, height, width))
        for _ in range(int(self._rng.integers(2, 6))):
            # Clutter: small still things in arbitrary colours, as likely in one class as in another.
            centre = (int(self._rng.integers(width)), int(self._rng.integers(height)))
            colour = tuple(float(value) for value in self._rng.uniform(30, 220, size=3))
            axes = (int(self._rng.integers(3, height // 10 + 4)), int(self._rng.integers(3, height // 12 + 4)))
            cv2.ellipse(surface, centre, axes, float(self._rng.uniform(0, 180)), 0, 360, colour, -1, cv2.LINE_AA)
        return surface

    def _draw_thing(self, appearance: Appearance, side: int) -> tuple[Pixels, Pixels]:
        """Returns a striped rounded bar with its mask: long in one direction, so that a turn is seen."""
        y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side - 0.5
        stripes = (np.sin((x * 2.0 + y) * np.pi * float(self._rng.uniform(5, 8))) > 0).astype(np.float32)
        flatness = float(self._rng.uniform(1.8, 2.6))
        mask = np.clip((0.46 - np.hypot(x, y * flatness)) * side / 2, 0, 1).astype(np.float32)
        return self._colours(appearance.thing, stripes), mask

    def _paste(self, picture: Pixels, thing: Pixels, mask: Pixels, pose: Pose, shift: tuple[float, float]) -> Pixels:
        side = thing.shape[0]
        place = cv2.getRotationMatrix2D((side / 2, side / 2), pose.turn_degrees, pose.size)
        place[:, 2] += (pose.x * self._width - side / 2 + shift[0], pose.y * self._height - side / 2 + shift[1])
        size = (self._width, self._height)
        cover = cv2.warpAffine(mask, place, size)[..., None]
        painted: Pixels = picture * (1 - cover) + cv2.warpAffine(thing, place, size) * cover
        return painted
