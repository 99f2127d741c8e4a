"""How far drawn images are from real ones: one file a measure, on numbers that a fixed network gives for each image.

``frechet``              Fréchet distance of two Gaussians (torchmetrics); the name of it says whose features they are
``kernel``               kernel distance (torchmetrics)
``inception_score``      exp E KL(p(y | x) ‖ p(y)) of a classifier (torchmetrics)
``precision_recall``     improved precision and recall
``memorization``         whether images are copies of training images
``assess``               all of them, each beside what real images get
"""

from ._network import FEATURES, FeatureNetwork, Features, describe
from .assess import Drawer, assess, check_metric
from .classifier import ClassifierFeatures, DigitFeatures
from .frechet import frechet_distance
from .inception import InceptionFeatures
from .inception_score import inception_score
from .kernel import kernel_distance
from .lite0 import Lite0Features, PooledLite0Features
from .memorization import Memorization, memorization, nearest
from .precision_recall import precision_recall

__all__ = [
    "FEATURES",
    "ClassifierFeatures",
    "DigitFeatures",
    "Drawer",
    "FeatureNetwork",
    "Features",
    "InceptionFeatures",
    "Lite0Features",
    "Memorization",
    "PooledLite0Features",
    "assess",
    "check_metric",
    "describe",
    "frechet_distance",
    "inception_score",
    "kernel_distance",
    "memorization",
    "nearest",
    "precision_recall",
]
