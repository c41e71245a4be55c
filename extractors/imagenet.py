"""What torchvision's ImageNet weights share: their preprocessing, and where they are published."""

from clipmill.schemas.recipe import Preprocess

TORCHVISION_URL = "https://download.pytorch.org/models"

TORCHVISION = Preprocess(
    resize="short_side",
    size=(256,),
    interpolation="bilinear_antialias",
    crop=(224, 224),
    crop_rounding="half_even",
    colour="rgb",
    scale=1 / 255,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
)
"""Short side 256 as Pillow resizes, centre crop 224 (its offset rounded half to even), 0-1, ImageNet mean and std."""

CNNIMAGERETRIEVAL_URL = "http://cmp.felk.cvut.cz/cnnimageretrieval/data/networks/imagenet"
CNNIMAGERETRIEVAL = "filipradenovic/cnnimageretrieval-pytorch, features imported from Caffe"
"""Caffe's convolutions, which that code feeds with torchvision's RGB, 0-1, mean and std."""
