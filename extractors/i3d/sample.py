"""The sample kinetics-i3d publishes, and what the authors' networks give on it: facts, for `i3d.check`."""

from dataclasses import dataclass

SOURCE = "deepmind/kinetics-i3d, out/imagenet_*.txt: v_CricketShot_g04_c01 of UCF-101, ImageNet initialisation"
"""The repository's files of the networks trained from scratch (out/no_imagenet_*.txt) hold these same numbers, so
that nothing is published to compare those with."""

NUM_CLASSES = 400
NUM_FRAMES, SIDE = 79, 224
CHANNELS = {"rgb": 3, "flow": 2}
"""The arrays are ``float32[1, 79, 224, 224, C]`` in [-1, 1]."""

SAMPLE_FILES = {"rgb": "v_CricketShot_g04_c01_rgb.npy", "flow": "v_CricketShot_g04_c01_flow.npy"}
SAMPLE_BLOBS = {
    "rgb": "d756c5020a6e0fb56a99b210e32f5865da712bba",
    "flow": "ee00e78e6f380caa5463de878d7c85ad7a01e668",
}
"""Git's ids of the arrays' bytes (folder data of the repository)."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a stream gives on the sample.

    Attributes:
        norm: of all 400 logits.
        top: the twenty highest: class number in the order of the checkpoints (label_map.txt), class name, logit.
    """

    norm: float
    top: tuple[tuple[int, str, float], ...]


EXPECTED = {
    "rgb": Expected(
        87.108871,
        (
            (227, "playing cricket", 25.856646),
            (237, "playing kickball", 12.330335),
            (48, "catching or throwing baseball", 11.254371),
            (297, "shooting goal (soccer)", 10.883866),
            (50, "catching or throwing softball", 10.393131),
            (358, "throwing discus", 10.008317),
            (166, "javelin throw", 9.804514),
            (143, "golf putting", 9.681604),
            (168, "jogging", 9.49558),
            (153, "hitting baseball", 9.490318),
            (367, "triple jump", 9.3243265),
            (161, "hurling (sport)", 8.685253),
            (306, "skateboarding", 8.533437),
            (160, "hurdling", 8.181894),
            (246, "playing tennis", 8.133075),
            (34, "breakdancing", 8.048665),
            (148, "hammer throw", 7.969584),
            (298, "shot put", 7.9668636),
            (182, "long jump", 7.8151855),
            (150, "headbutting", 7.7918606),
        ),
    ),
    "flow": Expected(
        63.252754,
        (
            (227, "playing cricket", 15.957031),
            (161, "hurling (sport)", 12.808723),
            (246, "playing tennis", 10.527044),
            (245, "playing squash or racquetball", 10.0088),
            (153, "hitting baseball", 9.425033),
            (48, "catching or throwing baseball", 8.879737),
            (345, "sword fighting", 8.863155),
            (50, "catching or throwing softball", 8.832453),
            (148, "hammer throw", 7.6928024),
            (218, "playing badminton", 7.481077),
            (256, "pumping fist", 6.359167),
            (346, "tai chi", 6.3529463),
            (363, "training dog", 5.8576136),
            (49, "catching or throwing frisbee", 5.744365),
            (357, "throwing ball", 5.606787),
            (51, "celebrating", 5.570133),
            (298, "shot put", 5.5605125),
            (235, "playing ice hockey", 5.3386106),
            (143, "golf putting", 5.2955847),
            (253, "pole vault", 5.2776113),
        ),
    ),
    "both": Expected(
        138.468658,
        (
            (227, "playing cricket", 41.813675),
            (161, "hurling (sport)", 21.493977),
            (48, "catching or throwing baseball", 20.134108),
            (50, "catching or throwing softball", 19.225584),
            (153, "hitting baseball", 18.915352),
            (246, "playing tennis", 18.660118),
            (237, "playing kickball", 17.377878),
            (245, "playing squash or racquetball", 16.627775),
            (297, "shooting goal (soccer)", 15.996164),
            (148, "hammer throw", 15.662386),
            (143, "golf putting", 14.977189),
            (358, "throwing discus", 14.671673),
            (166, "javelin throw", 14.61809),
            (256, "pumping fist", 13.917274),
            (298, "shot put", 13.527376),
            (51, "celebrating", 13.331253),
            (3, "applauding", 12.880911),
            (357, "throwing ball", 12.487497),
            (94, "dodgeball", 12.358461),
            (349, "tap dancing", 12.010079),
        ),
    ),
}
