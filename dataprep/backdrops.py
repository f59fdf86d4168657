"""Streets, walls and parks for drawn figures to stand in front of: float32 [h, w, 3] in 0..255."""

import numpy as np

from dataprep.drawing import blur, noise


def random_backdrop(rng, height, width):
    """A picture of random kind, colours and light."""
    kind = _KINDS[rng.choice(len(_KINDS), p=_SHARES)]
    horizon = int(height * rng.uniform(0.62, 0.86))
    picture = np.zeros((height, width, 3), np.float32)
    kind(rng, picture, horizon)
    picture += 3 * noise(rng, (height, width), (height // 3, width // 3))[..., None]
    light = 1 + 0.12 * noise(rng, (height, width), (3, 2))
    return np.clip(picture * light[..., None], 0, 255).astype(np.float32)


def _colour(rng, low, high, spread=6):
    """A greyish colour between two brightnesses."""
    return np.float32(rng.uniform(low, high) + rng.normal(0, spread, 3))


def _gradient(rows, top, bottom):
    """[rows, 1, 3] from one colour to another."""
    part = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    return top + (bottom - top) * part


def _pavement(rng, picture, horizon):
    """The ground: lighter near by, slabs in perspective, grain."""
    height, width, _ = picture.shape
    rows = height - horizon
    tone = _colour(rng, 110, 185, 6)
    ground = np.broadcast_to(_gradient(rows, tone * 0.86, tone), (rows, width, 3)).copy()
    y = np.arange(rows, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None] - width * rng.uniform(0.3, 0.7)
    depth = (y + 14) / (rows + 14)
    if rng.random() < 0.7:
        across = np.abs((1 / depth * rng.uniform(1.2, 2.4)) % 1 - 0.5) > 0.47
        along = np.abs((x / depth / rng.uniform(60, 120)) % 1 - 0.5) > 0.485
        ground *= 1 - 0.12 * blur((across | along).astype(np.float32), 1)[..., None]
    ground += 7 * noise(rng, (rows, width), (max(rows // 2, 2), width // 4))[..., None]
    picture[horizon:] = ground


def _street(rng, picture, horizon):
    """House fronts with rows of windows, out of focus, a strip of sky above."""
    width = picture.shape[1]
    sky = _colour(rng, 190, 235, 6) + np.float32([-6, 0, 10])
    picture[:horizon] = _gradient(horizon, sky, sky * 0.97)
    left = -int(rng.integers(0, 80))
    while left < width:
        right = left + int(rng.integers(70, 190))
        top = int(horizon * rng.choice([0.0, rng.uniform(0.05, 0.4)], p=[0.55, 0.45]))
        front = picture[top:horizon, max(left, 0):right]
        front[:] = _colour(rng, 90, 205, 9)
        _windows(rng, front)
        left = right
    picture[:horizon] = _defocus(picture[:horizon], rng.integers(1, 5))
    _pavement(rng, picture, horizon)
    kerb = _colour(rng, 120, 190, 4)
    picture[horizon:horizon + 5] = kerb
    picture[horizon + 5:horizon + 8] *= 0.75


def _windows(rng, front):
    """Darken a grid of panes; the last row are doors and shop windows."""
    rows, columns = front.shape[:2]
    step_y, step_x = int(rng.integers(46, 80)), int(rng.integers(30, 58))
    pane_y, pane_x = int(step_y * rng.uniform(0.5, 0.72)), int(step_x * rng.uniform(0.45, 0.7))
    glass = _colour(rng, 40, 120, 10)
    for y in range(10, rows, step_y):
        for x in range(8, columns, step_x):
            pane = front[y:y + pane_y, x:x + pane_x]
            pane[:] = glass * rng.uniform(0.75, 1.3)
            pane[:2] *= 1.5
            pane[:, :2] *= 1.3
    shop = front[max(rows - int(rng.integers(60, 110)), 0):]
    if rng.random() < 0.5:
        shop[:] = _colour(rng, 50, 130, 10)
        shop[:8] = _colour(rng, 60, 220, 30)


def _wall(rng, picture, horizon):
    """Bricks, plaster, or a shutter, in focus."""
    width = picture.shape[1]
    tone = _colour(rng, 95, 215, 10)
    picture[:horizon] = tone + 9 * noise(rng, (horizon, width), (24, 16))[..., None]
    y = np.arange(horizon, dtype=np.float32)[:, None]
    x = np.arange(width, dtype=np.float32)[None]
    kind = rng.choice(["bricks", "shutter", "plaster"])
    if kind == "bricks":
        tint = np.float32([1.1, 0.82, 0.72]) if rng.random() < 0.6 else np.float32([1, 1, 1])
        course = rng.uniform(11, 17)
        row = np.floor(y / course)
        along = x / (2.6 * course) + 0.5 * (row % 2)
        mortar = (y % course < 1.8) | (along % 1 < 0.05)
        brick = np.sin(12.9898 * np.floor(along) + 78.233 * row) * 43758.5453 % 1
        bricks = picture[:horizon] * tint * (0.86 + 0.2 * brick[..., None])
        picture[:horizon] = np.where(mortar[..., None], tone * 1.12, bricks)
    elif kind == "shutter":
        picture[:horizon] *= 1 + 0.10 * np.sin(2 * np.pi * y / rng.uniform(10, 22))[..., None]
    picture[:horizon] = _defocus(picture[:horizon], rng.integers(0, 2))
    _pavement(rng, picture, horizon)


def _park(rng, picture, horizon):
    """Leaves and trunks out of focus, grass or a path."""
    height, width, _ = picture.shape
    green = np.float32([rng.uniform(65, 115), rng.uniform(90, 130), rng.uniform(55, 80)])
    leaves = (noise(rng, (horizon, width), (horizon // 9, width // 9))
              + noise(rng, (horizon, width), (horizon // 28, width // 28)))
    picture[:horizon] = green * (1 + 0.35 * leaves[..., None])
    bright = np.clip(leaves - 0.9, 0, 1)[..., None]
    picture[:horizon] += bright * 150 * np.float32([1, 1, 0.85])
    for _ in range(rng.integers(0, 4)):
        left = int(rng.integers(0, width))
        picture[int(horizon * 0.2):horizon, left:left + int(rng.integers(8, 26))] *= 0.5
    picture[:horizon] = _defocus(picture[:horizon], rng.integers(3, 7))
    if rng.random() < 0.5:
        _pavement(rng, picture, horizon)
    else:
        grass = noise(rng, (height - horizon, width), (max((height - horizon) // 2, 2), width // 2))
        picture[horizon:] = green * 1.1 * (1 + 0.22 * grass[..., None])


def _studio(rng, picture, horizon):
    """A plain paper backdrop."""
    tone = _colour(rng, 175, 240, 6)
    picture[:] = _gradient(picture.shape[0], tone, tone * 0.93)
    picture[horizon:] *= 0.96
    picture[:] = _defocus(picture, 6)


def _defocus(picture, radius):
    return blur(picture, int(radius))


_KINDS = (_street, _wall, _park, _studio)
_SHARES = (0.42, 0.28, 0.20, 0.10)
