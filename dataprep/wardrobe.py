"""Garments for a drawn figure: each function paints one, owned by one object of the canvas."""

import numpy as np

from dataprep.drawing import PATTERNS, Fabric, curve, ellipse, tube
from dataprep.figure import cut

_COLOURS = ((28, 28, 32), (240, 238, 232), (44, 58, 96), (150, 32, 44), (196, 164, 120),
            (96, 104, 72), (200, 96, 120), (232, 190, 70), (70, 120, 150), (120, 76, 50),
            (180, 182, 186), (86, 84, 90), (214, 120, 60), (60, 110, 90), (150, 120, 170),
            (246, 214, 206), (66, 92, 140), (222, 214, 194))
_LEATHER = ((34, 30, 30), (112, 66, 38), (158, 110, 66), (190, 40, 46), (226, 214, 196),
            (60, 60, 66), (176, 134, 70))
_DENIM = ((52, 72, 112), (92, 122, 164), (34, 42, 62), (140, 160, 186))


_FLAT = {"relief": 0.0, "folds": 0.0, "shadow": 0.0}


def random_fabric(rng, patterned=0.4):
    """Any cloth."""
    base, second = (_vary(rng, _COLOURS[i]) for i in rng.choice(len(_COLOURS), 2, replace=False))
    kind = PATTERNS[rng.integers(1, len(PATTERNS))] if rng.random() < patterned else "plain"
    if kind == "denim":
        return denim(rng)
    return Fabric(kind, base, second, rng.uniform(8, 26), rng.choice([0.0, 0.0, np.pi / 2, 0.6]))


def denim(rng):
    """Jeans' cloth."""
    base = _vary(rng, _DENIM[rng.integers(len(_DENIM))])
    return Fabric("denim", base, (225, 230, 240), 20.0, 0.8)


def leather(rng):
    """Plain leather."""
    return Fabric("plain", _vary(rng, _LEATHER[rng.integers(len(_LEATHER))]))


def _vary(rng, colour):
    return tuple(np.clip(np.array(colour) + rng.normal(0, 9, 3), 8, 250))


def _shade(fabric, factor):
    """The same cloth, lighter or darker."""
    return Fabric(fabric.kind, tuple(np.clip(np.array(fabric.base) * factor, 0, 255)),
                  tuple(np.clip(np.array(fabric.second) * factor, 0, 255)), fabric.repeat,
                  fabric.angle)


def paint_sleeves(canvas, figure, side, fabric, owner, share, ease):
    """One sleeve over the first `share` of the arm."""
    points, radii = figure.arm(side, share)
    widen = 1.25 if share < 0.6 else 1.05
    radii = (radii + ease * np.linspace(0.5, 1, len(radii))) * np.linspace(1, widen, len(radii))
    canvas.paint(tube(points, radii), fabric, owner)


def paint_top(canvas, figure, rng, fabric, owner, tucked):
    """A shirt or blouse; returns the sleeve's share of the arm."""
    hem = rng.uniform(0.585, 0.60) if tucked else rng.uniform(0.50, 0.56)
    ease = rng.uniform(1.5, 5.0)
    dip = rng.choice([0.02, 0.035, 0.06, 0.085])
    body = figure.trunk(0.822, hem, ease, flare=rng.uniform(0, 4), neck=rng.uniform(0.034, 0.048),
                        dip=dip)
    canvas.paint([body], fabric, owner)
    if dip < 0.03 and rng.random() < 0.5:
        _button_row(canvas, figure, fabric, owner, hem)
    return float(rng.choice([0.0, 0.28, 0.42, 0.75, 1.0], p=[0.12, 0.28, 0.1, 0.15, 0.35]))


def _button_row(canvas, figure, fabric, owner, hem):
    dark = _shade(fabric, 0.62)
    for share in np.arange(hem + 0.02, 0.81, 0.035):
        centre = (figure.centre(share), figure.level(share))
        canvas.paint([ellipse(centre, 1.6, 1.6)], dark, owner, **_FLAT)


def paint_dress(canvas, figure, rng, fabric, owner):
    """A dress, from the shoulders to between thigh and shin; returns its sleeves' share."""
    hem = rng.choice([rng.uniform(0.32, 0.38), rng.uniform(0.24, 0.32), rng.uniform(0.08, 0.2)],
                     p=[0.5, 0.35, 0.15])
    bodice = figure.trunk(0.822, 0.60, rng.uniform(1, 3), neck=rng.uniform(0.036, 0.056),
                          dip=rng.choice([0.02, 0.045, 0.08]))
    canvas.paint([_skirt_outline(figure, rng, hem, rng.uniform(2, 26)), bodice], fabric, owner,
                 folds=0.1)
    return float(rng.choice([0.0, 0.25, 0.7, 1.0], p=[0.4, 0.25, 0.15, 0.2]))


def paint_skirt(canvas, figure, rng, fabric, owner):
    """A skirt, pencil to flared, mini to maxi."""
    hem = rng.choice([rng.uniform(0.34, 0.40), rng.uniform(0.25, 0.33), rng.uniform(0.07, 0.2)],
                     p=[0.5, 0.35, 0.15])
    canvas.paint([_skirt_outline(figure, rng, hem, rng.uniform(-3, 30))], fabric, owner, folds=0.12)


def _skirt_outline(figure, rng, hem, flare):
    """From the waist over the hips down to `hem`, `flare` pixels wider on each side there."""
    left, right = [], []
    for share in np.linspace(0.612, hem, 9):
        part = (0.612 - share) / (0.612 - hem)
        half = figure.half_width(max(share, 0.44)) + 2 + flare * part**1.4
        if share < 0.44:
            half *= 1 - 0.10 * min(1.0, (0.44 - share) / 0.2) * (flare < 6)
        left.append((figure.centre(max(share, 0.5)) - half, figure.level(share)))
        right.append((figure.centre(max(share, 0.5)) + half, figure.level(share)))
    wave = rng.uniform(1, 3)
    middle = figure.centre(0.5)
    hem_line = [(middle + offset * (right[-1][0] - middle), figure.level(hem) + wave * bend)
                for offset, bend in zip((0.66, 0.33, 0, -0.33, -0.66), (1.6, 0.7, 1.9, 0.7, 1.6))]
    return np.array(left[::-1] + right + hem_line)


def paint_trousers(canvas, figure, rng, fabric, owner, short, slim):
    """Trousers, skinny to wide, or shorts. `slim` ones fit into boots."""
    waist = rng.uniform(0.585, 0.615)
    until = rng.uniform(0.33, 0.41) if short else rng.choice([rng.uniform(0.035, 0.06), 0.11])
    ease = rng.uniform(2.5, 7) if short else 0.8 if slim else rng.choice([0.8, 2.0, 5.0, 10.0])
    canvas.paint([figure.trunk(waist, 0.45, ease=1.5)[3:]], fabric, owner, shadow=0.1)
    for side in rng.permutation(2):
        points, radii = cut(*figure.leg(side), figure.level(until))
        points[:, 0] += (-1, 1)[side] * 0.4 * ease * np.linspace(0, 1, len(radii))
        radii = radii + ease * np.linspace(0.3, 1.1, len(radii))
        canvas.paint(tube(points, radii, round_ends=False), fabric, owner, shadow=0.3, depth=4)
    seat = figure.trunk(waist, 0.485, ease=1.5)[3:]
    canvas.paint([seat], fabric, owner, shadow=0, relief=0.12)
    seam = [(figure.centre(0.5), figure.level(0.58)), (figure.centre(0.47), figure.level(0.475))]
    canvas.paint(tube(seam, np.array([0.4, 0.5])), _shade(fabric, 0.7), owner, **_FLAT)


def paint_belt(canvas, figure, rng, fabric, owner):
    """A belt with a buckle at the waist."""
    level, half = rng.uniform(0.600, 0.622), rng.uniform(0.008, 0.016)
    sag = rng.uniform(1, 4)
    ring = []
    for share in (level + half, level - half):
        x, y, w = figure.centre(level), figure.level(share), figure.half_width(level) + 3.5
        row = [(x - w, y), (x - w / 2, y + sag * 0.8), (x, y + sag), (x + w / 2, y + sag * 0.8),
               (x + w, y)]
        ring += row if not ring else row[::-1]
    canvas.paint([np.array(ring)], fabric, owner, folds=0.0)
    centre = np.array([figure.centre(level), figure.level(level) + sag])
    frame = centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [half * 0.8 * figure.h,
                                                                     half * 1.1 * figure.h]
    metal = Fabric("plain", (206, 182, 110) if rng.random() < 0.5 else (196, 198, 204))
    canvas.paint([frame], metal, owner, relief=0.5, folds=0, shadow=0.3)


def paint_outer(canvas, figure, rng, fabric, owner):
    """A jacket or coat, open or closed; returns its ease in pixels."""
    hem = rng.choice([rng.uniform(0.47, 0.56), rng.uniform(0.30, 0.45)], p=[0.62, 0.38])
    ease, flare = rng.uniform(4, 9), rng.uniform(1, 10)
    gap = rng.choice([-0.004, rng.uniform(0.016, 0.055)], p=[0.22, 0.78]) * figure.h
    panels = [_panel(figure, sign, hem, gap, ease, flare) for sign in (-1, 1)]
    canvas.paint(panels, fabric, owner, shadow=0.35)
    if gap < 0:
        _button_row(canvas, figure, fabric, owner, max(hem, 0.5))
    _lapels(canvas, figure, fabric, owner, max(gap, 0.012 * figure.h))
    return ease


def _panel(figure, sign, hem, gap, ease, flare):
    """One front of a jacket: from the collar down its edge, along the hem, up the side."""
    shares = np.linspace(0.828, hem, 9)
    down = (0.828 - shares) / (0.828 - hem)
    middle = np.array([figure.centre(share) for share in shares])
    ys = np.array([figure.level(share) for share in shares])
    half = np.array([figure.half_width(share) for share in shares]) + ease + flare * down**2
    inner = middle + sign * gap * (1.3 - 1.1 * down + 0.9 * down**2)
    collar = [(middle[0] + sign * max(0.03 * figure.h, gap), figure.level(0.852))]
    edge = np.column_stack([inner, ys])
    edge[-1, 1] += 0.008 * figure.h
    side = np.column_stack([middle + sign * half, ys])[::-1]
    return np.concatenate([collar, edge, side])


def _lapels(canvas, figure, fabric, owner, gap):
    light = _shade(fabric, 1.12)
    for sign in (-1, 1):
        x = figure.centre(0.8) + sign * gap
        lapel = np.array([(x + sign * 0.02 * figure.h, figure.level(0.845)),
                          (x + sign * 0.036 * figure.h, figure.level(0.77)),
                          (x + sign * 0.004 * figure.h, figure.level(0.70)),
                          (x - sign * 0.002 * figure.h, figure.level(0.80))])
        canvas.paint([lapel], light, owner, shadow=0.3, folds=0.02)


def paint_shoe(canvas, figure, side, fabric, owner, heel):
    """A shoe: a pump with a heel, or a sneaker with a pale sole and laces."""
    h, ankle, toe = figure.h, figure.ankles[side], figure.toes[side]
    along = [ankle + part * (toe - ankle) + [0, 0.005 * h] for part in (0.15, 0.6, 1.0)]
    sole = [point + [0, 0.006 * h] for point in along]
    under = _shade(fabric, 0.6) if heel else Fabric("plain", (236, 234, 230))
    canvas.paint(tube(sole, np.array([0.015, 0.0245, 0.0165]) * h), under, owner, shadow=0.3)
    canvas.paint(tube(along, np.array([0.0185, 0.0245, 0.0155]) * h), fabric, owner, folds=0,
                 shadow=0)
    for part in () if heel else (0.35, 0.5, 0.65):
        lace = ellipse(along[0] + part * (along[2] - along[0]), 0.010 * h, 0.0022 * h)
        canvas.paint([lace], under, owner, **_FLAT)


def paint_boot(canvas, figure, side, fabric, owner, until, ease):
    """A boot up to the height `until` (a share of the body's), `ease` pixels wider than the leg."""
    points, radii = figure.leg(side)
    at = np.linspace(0, len(radii) - 1, 60)
    fine = np.column_stack([np.interp(at, range(len(radii)), points[:, i]) for i in range(2)])
    start = np.argmax(fine[:, 1] >= figure.level(until))
    keep = np.linspace(start, 59, 6).astype(int)
    radius = np.interp(at, range(len(radii)), radii)[keep] + ease
    ankle, toe = figure.ankles[side], figure.toes[side] + [0, 0.005 * figure.h]
    foot = tube([ankle - [0, 0.01 * figure.h], ankle + 0.6 * (toe - ankle), toe],
                np.array([0.021, 0.027, 0.0175]) * figure.h)
    canvas.paint(tube(fine[keep], radius, round_ends=False) + foot, fabric, owner, shadow=0.3)


def paint_bag(canvas, figure, rng, side, fabric, owner):
    """A bag on one side: held in the hand, or on the hip with a strap across the body."""
    h, sign = figure.h, (-1, 1)[side]
    width, height = rng.uniform(0.05, 0.10) * h, rng.uniform(0.065, 0.12) * h
    strap = _shade(fabric, 0.7)
    if figure.arms[side] in ("hang", "away") and rng.random() < 0.6:
        grip = figure.wrists[side] + [0, 0.035 * h]
        top = grip + [0, 0.05 * h]
        arc = [top + [-0.6 * width, 0], grip + [-0.25 * width, 0], grip + [0.25 * width, 0],
               top + [0.6 * width, 0]]
        canvas.paint(tube(arc, np.full(4, 0.0042 * h)), strap, owner, folds=0)
    else:
        top = np.array([figure.centre(0.5) + sign * 0.10 * h, figure.level(rng.uniform(0.5, 0.54))])
        over = figure.shoulders[1 - side if rng.random() < 0.6 else side] - [0, 0.018 * h]
        points = [over, (over + top) / 2 + [sign * 0.008 * h, 0], top]
        canvas.paint(tube(points, np.full(3, 0.0045 * h)), strap, owner, folds=0)
    slant = rng.uniform(0.8, 1.15)
    body = np.array([(-slant, 0), (slant, 0), (1.04, 0.5), (1, 1), (-1, 1), (-1.04, 0.5)])
    outline = curve(np.repeat(body, 2, axis=0) * [width, height] + top, steps=3)
    canvas.paint([outline], fabric, owner, relief=0.5, folds=0.03, shadow=0.4)
    flap = np.array([(-slant, 0), (slant, 0), (0.8, 0.38), (0, 0.48), (-0.8, 0.38)])
    canvas.paint([flap * [width, height] + top], _shade(fabric, 0.9), owner, folds=0, shadow=0.35)
    clasp = ellipse(top + [0, 0.48 * height], 0.006 * h, 0.006 * h)
    canvas.paint([clasp], Fabric("plain", (210, 188, 120)), owner, relief=0.5, folds=0)


def paint_sunglasses(canvas, figure, rng, owner):
    """Two dark lenses and what joins them."""
    (x, y), h = figure.head, figure.face
    size = rng.uniform(0.015, 0.019) * h
    glass = Fabric("plain", ((18, 18, 22), (52, 34, 24), (28, 36, 54))[rng.integers(3)])
    lenses = [ellipse((x + sign * 0.0195 * h, y + 0.001 * h), size, size * rng.uniform(0.8, 1.0))
              for sign in (-1, 1)]
    bar = tube([(x + part * h, y - 0.005 * h) for part in (-0.042, 0, 0.042)],
               np.full(3, 0.0028 * h))
    canvas.paint(bar, glass, owner, relief=0, folds=0, shadow=0.1)
    for lens in lenses:
        canvas.paint([lens], glass, owner, relief=0.9, folds=0, shadow=0.2)


def paint_headwear(canvas, figure, rng, fabric, owner):
    """A brimmed hat, a beanie or a cap."""
    (x, y), h = figure.head, figure.face
    dome = [(x - 0.047 * h, y - 0.026 * h), (x - 0.040 * h, y - 0.066 * h), (x, y - 0.086 * h),
            (x + 0.040 * h, y - 0.066 * h), (x + 0.047 * h, y - 0.026 * h), (x, y - 0.018 * h)]
    kind = rng.choice(["brim", "beanie", "cap"])
    canvas.paint([curve(dome)], fabric, owner, relief=0.45)
    if kind == "brim":
        wide = rng.uniform(0.07, 0.095) * h
        canvas.paint([ellipse((x, y - 0.028 * h), wide, 0.015 * h, rng.normal(0, 0.06))], fabric,
                     owner, shadow=0.5)
        band = tube([(x - 0.043 * h, y - 0.040 * h), (x, y - 0.034 * h),
                     (x + 0.043 * h, y - 0.040 * h)], np.full(3, 0.006 * h), round_ends=False)
        canvas.paint(band, _shade(fabric, 0.55), owner, folds=0, shadow=0)
    elif kind == "beanie":
        band = tube([(x - 0.044 * h, y - 0.030 * h), (x, y - 0.024 * h),
                     (x + 0.044 * h, y - 0.030 * h)], np.full(3, 0.012 * h))
        canvas.paint(band, _shade(fabric, 0.85), owner, folds=0.08, shadow=0.3)
    else:
        peak = ellipse((x + rng.normal(0, 0.006) * h, y - 0.022 * h), 0.045 * h, 0.0125 * h)
        canvas.paint([peak], _shade(fabric, 0.8), owner, shadow=0.5)


def paint_scarf(canvas, figure, rng, fabric, owner):
    """A scarf around the neck, one or two ends hanging."""
    h, x = figure.h, figure.centre(0.83)
    for sign in rng.permutation([-1, 1])[:rng.integers(1, 3)]:
        end = rng.uniform(0.62, 0.74)
        points = [(x + sign * 0.02 * h, figure.level(0.83)),
                  (x + sign * 0.032 * h, figure.level((0.83 + end) / 2)),
                  (x + sign * 0.030 * h, figure.level(end))]
        canvas.paint(tube(points, np.array([0.013, 0.018, 0.021]) * h, round_ends=False), fabric,
                     owner, shadow=0.35)
    for lift in (0.0, 0.018):
        loop = [(x - 0.046 * h, figure.level(0.848 + lift)), (x, figure.level(0.828 + lift)),
                (x + 0.046 * h, figure.level(0.848 + lift))]
        canvas.paint(tube(loop, np.array([0.010, 0.0165, 0.010]) * h), fabric, owner, folds=0.12,
                     shadow=0.3)


def paint_tie(canvas, figure, rng, fabric, owner):
    """A tie with its knot."""
    h, x = figure.h, figure.centre(0.82)
    end = rng.uniform(0.62, 0.67)
    blade = [(x - 0.007 * h, figure.level(0.822)), (x + 0.007 * h, figure.level(0.822)),
             (x + 0.016 * h, figure.level(end + 0.02)), (x, figure.level(end)),
             (x - 0.016 * h, figure.level(end + 0.02))]
    knot = [(x - 0.012 * h, figure.level(0.842)), (x + 0.012 * h, figure.level(0.842)),
            (x + 0.008 * h, figure.level(0.818)), (x - 0.008 * h, figure.level(0.818))]
    canvas.paint([np.array(blade)], fabric, owner, shadow=0.35)
    canvas.paint([np.array(knot)], _shade(fabric, 0.92), owner, shadow=0.2)
