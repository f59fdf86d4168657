"""Which classes are the left and right one of the same thing."""

import pytest

from dnnlib.data import mirroring
from dnnlib.util import UserError

CAR = ("_background_", "back_bumper", "back_glass", "back_left_door", "back_left_light",
       "back_right_door", "back_right_light", "front_bumper", "front_glass", "front_left_door",
       "front_left_light", "front_right_door", "front_right_light", "hood", "left_mirror",
       "right_mirror", "tailgate", "trunk", "wheel")
FACE = ("skin", "l_brow", "r_brow", "eye_g", "l_ear", "r_ear", "ear_r", "nose", "u_lip", "l_lip")


@pytest.mark.parametrize("classes, pairs", [
    (("l_eye", "r_eye"), "l_eye:r_eye"),
    (("r_eye", "nose", "l_eye"), "l_eye:r_eye"),
    (CAR, "back_left_door:back_right_door,back_left_light:back_right_light,"
     "front_left_door:front_right_door,front_left_light:front_right_light,"
     "left_mirror:right_mirror"),
    (FACE, "l_brow:r_brow,l_ear:r_ear"),
    (("hat", "Left-shoe", "Right-shoe", "Left-arm", "Right-arm"),
     "Left-shoe:Right-shoe,Left-arm:Right-arm"),
    (("hand_l", "hand_r", "FOOT_L", "FOOT_R"), "hand_l:hand_r,FOOT_L:FOOT_R"),
    (("left x", "right x", "x left", "x right"), "left x:right x,x left:x right"),
    (("leftEye", "rightEye", "EyeL", "EyeR", "LHand", "RHand"),
     "leftEye:rightEye,EyeL:EyeR,LHand:RHand"),
    (("lefteye", "righteye", "Leftarm", "Rightarm"), "lefteye:righteye,Leftarm:Rightarm"),
    (("l eye", "Right Eye"), "l eye:Right Eye"), (("right", "left"), "left:right"),
    (("rib_left_1", "rib_right_1", "vertebra_L1", "vertebra_L2"), "rib_left_1:rib_right_1"),
    (("bright_left", "bright_right"), "bright_left:bright_right"),
    (("a,left", "a,right", "b:left", "b:right"), "a,left:a,right,b:left:b:right"),
    (("leftover", "light", "bright", "right_of_way", "copyright", "cleft", "lamp", "ramp"), "none"),
    (("left_eye", "Left eye", "right_eye"), "none"),  # of which is it the partner?
    (("r", "g", "b"), "none"), ((), "none")])
def test_pairs_by_name(classes, pairs):
    found = mirroring.pairs_by_name(classes)
    assert mirroring.pairs_text(found) == pairs
    assert mirroring.parse_pairs(pairs, classes) == mirroring.parse_pairs(None, classes) == found


def test_order_of_maps():
    assert mirroring.mirrored_order(mirroring.pairs_by_name(CAR), CAR) == [
        0, 1, 2, 5, 6, 3, 4, 7, 8, 11, 12, 9, 10, 13, 15, 14, 16, 17, 18]
    assert mirroring.mirrored_order([], CAR) is None


@pytest.mark.parametrize("classes, alone", [
    (CAR, []), (FACE, ["ear_r", "l_lip"]), (("r", "g", "b", "leftover", "bright"), []),
    (("right_of_way", "road"), ["right_of_way"]), (("leftEye", "eye"), ["leftEye"])])
def test_a_side_without_a_partner_is_named(classes, alone):
    assert mirroring.without_partner(classes, mirroring.pairs_by_name(classes)) == alone
    warnings = [line.split(": named after a side")[0]
                for line in mirroring.mirroring_lines(None, classes) if "named after" in line]
    assert warnings == ([f"warning: {', '.join(alone)}"] if alone else [])


def test_given_pairs_replace_pairs_by_name():
    """A warning lists the classes that they leave out."""
    assert mirroring.parse_pairs("nose:skin", FACE) == [("nose", "skin")]
    assert mirroring.parse_pairs("none", FACE) == []
    lines = mirroring.mirroring_lines("l_ear:r_ear", FACE[:6])
    assert lines[0].endswith("swap the classes l_ear:r_ear")
    assert lines[1].startswith("warning: l_brow, r_brow: ")
    for text in ("l_ear", "l_ear:", "l_ear:r_ea", "l_ear:r_ear,", "l_ear:r_ear;l_brow:r_brow",
                 "l_ear:l_ear", "l_ear:r_ear,r_ear:nose", "", "L_ear:r_ear"):
        with pytest.raises(UserError, match=r"--mirror-pairs=.*they are skin, l_brow"):
            mirroring.parse_pairs(text, FACE)
    with pytest.raises(UserError, match="they are none"):
        mirroring.parse_pairs("a:b", ())
