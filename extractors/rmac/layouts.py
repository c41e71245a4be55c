"""The weights files R-MAC takes: those of the networks whose maps it pools."""

from clipmill.extractors.resnet50.layouts import layouts as resnet50_layouts
from clipmill.extractors.squeezenet.layouts import layouts as squeezenet_layouts
from clipmill.extractors.vgg16.layouts import layouts as vgg16_layouts
from clipmill.extractors.weights import Layout


def layouts() -> tuple[Layout, ...]:
    """Returns the layout of every published file of these networks."""
    return (*vgg16_layouts(), *resnet50_layouts(), *squeezenet_layouts())
