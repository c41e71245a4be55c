"""The distribution `clipmill`. A setup.py, because Beam ships a pipeline's own code to its workers by calling one."""

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from setuptools import setup

PACKAGES = [
    "clipmill",
    "clipmill.extractors",
    "clipmill.extractors.c3d",
    "clipmill.extractors.cpnet",
    "clipmill.extractors.exported",
    "clipmill.extractors.i3d",
    "clipmill.extractors.onnx_program",
    "clipmill.extractors.rc3d",
    "clipmill.extractors.resnet50",
    "clipmill.extractors.rmac",
    "clipmill.extractors.squeezenet",
    "clipmill.extractors.torch_program",
    "clipmill.extractors.tracks",
    "clipmill.extractors.vgg16",
    "clipmill.jobs",
    "clipmill.jobs.weights",
    "clipmill.models",
    "clipmill.pipelines",
    "clipmill.pipelines.datasets",
    "clipmill.pipelines.decode",
    "clipmill.pipelines.evaluation",
    "clipmill.pipelines.evaluation.metrics",
    "clipmill.pipelines.evaluation.retrieval",
    "clipmill.pipelines.evaluation.tasks",
    "clipmill.pipelines.evaluation.tasks.classification",
    "clipmill.pipelines.evaluation.tasks.detection",
    "clipmill.pipelines.evaluation.tasks.highlights",
    "clipmill.pipelines.evaluation.tasks.landmarks",
    "clipmill.pipelines.evaluation.tasks.moments",
    "clipmill.pipelines.evaluation.tasks.proposals",
    "clipmill.pipelines.evaluation.tasks.ranking",
    "clipmill.pipelines.evaluation.tasks.retrieval",
    "clipmill.pipelines.evaluation.tasks.scene_retrieval",
    "clipmill.pipelines.features",
    "clipmill.pipelines.features.engines",
    "clipmill.pipelines.features.imported",
    "clipmill.pipelines.reports",
    "clipmill.pipelines.reproductions",
    "clipmill.pipelines.reproductions.cpnet_toy",
    "clipmill.pipelines.reproductions.map_ivr_table",
    "clipmill.pipelines.sweeps",
    "clipmill.pipelines.training",
    "clipmill.pipelines.training.videos",
    "clipmill.schemas",
    "clipmill.stores",
    "clipmill.stores.feature_files",
    "clipmill.stores.formats",
    "clipmill.stores.loaders",
]
"""Written out, so that a working copy's leftovers never become part of a wheel; a test compares it with the folders."""

RUNTIME = [
    # Records, configs, tables.
    "numpy>=2.0,<3",
    "pyarrow>=17",
    "pydantic>=2.7,<3",
    "pyyaml>=6,<7",
    # Defaults of type variables.
    "typing-extensions>=4.12",
    # Decoding. decord2 is the maintained fork of decord, under its import name; decord 0.6.0, its last release, can be
    # put in its place (docs/decoding.md), but not beside it: both would write the same folder.
    "decord2==3.4.0",
    "av>=13",
    # One OpenCV and no second one beside it: both would write the same cv2 folder. contrib has optical flow; headless
    # needs no display libraries.
    "opencv-contrib-python-headless>=4.10",
    "pillow>=10",
    # Networks and training. safetensors: weights files of that form.
    "torch>=2.6,<3",
    "safetensors>=0.4.3,<1",
    # Storage. zarr 3 for sharded arrays.
    "zarr>=3.0.8,<4",
    # What zarr is made of, where its chunks are read without its event loop.
    "numcodecs>=0.14",
    "google-crc32c>=1.5",
    "fsspec>=2024.9",
    "h5py>=3.11",
    # MATLAB's .mat of version 5; scikit-learn needs it as well.
    "scipy>=1.11",
    # Engines and evaluation. Beam's own range is narrow; the dask extra of Beam is dask and distributed.
    "ray>=2.40,<3",
    "apache-beam>=2.65,<3",
    "dask>=2024.9",
    "distributed>=2024.9",
    # Approximate and binary search; its threads beside a matrix product's are held to one by threadpoolctl.
    "faiss-cpu>=1.9,<2",
    "threadpoolctl>=3.5",
    # Finding the worker processes of Beam's direct runner.
    "psutil>=5.9",
    # Command line and reports.
    "typer>=0.12,<1",
    "jinja2>=3.1,<4",
    # The report's t-SNE map, on one thread so that equal inputs give equal pages.
    "scikit-learn>=1.5",
]

ONNX = [
    # The extractor onnx: the one reads a model as data, the other runs it.
    "onnx>=1.17,<2",
    "onnxruntime>=1.20,<2",
]

OPENVINO = [
    # Runs a recipe's network in place of PyTorch (`runtime: openvino`).
    "openvino>=2025.0",
]

PROMETHEUS = [
    # Metrics of a build; since 0.20 its server can be shut down.
    "prometheus-client>=0.20",
]

# Formats of export, and rows as a pandas frame.
WEBDATASET = ["webdataset>=0.2.100"]
LANCE = ["pylance>=0.20"]
PANDAS = ["pandas>=2"]

DEVELOPMENT = [
    "hypothesis>=6.100",
    "mypy>=1.11",
    "pre-commit>=3.7",
    "pytest>=8,<10",
    "pytest-timeout>=2.3",
    "pytest-xdist>=3.6",
    "ruff>=0.6",
    "types-pyyaml",
    # Independent implementations that tests compare with.
    "pytrec-eval-terrier>=0.5.6",
    "ranx>=0.3.20",
    "torchmetrics>=1.4",
    # An S3 server for the tests of object storage.
    "flask>=3",
    "flask-cors>=4",
    "moto[s3]>=5",
    "s3fs>=2024.9",
    # Reads the event files of a training back.
    "tensorboard>=2.15",
    # Runs the notebook of the examples.
    "ipykernel>=6",
    "nbclient>=0.8",
    "nbformat>=5.9",
]

DOCUMENTATION = [
    # The pages as a site, with the public names from their docstrings (make docs).
    "mkdocs-material>=9.5",
    "mkdocstrings[python]>=0.26",
]

OBJECT_STORES = {"s3": ["s3fs>=2024.9"], "gcs": ["gcsfs>=2024.9"], "azure": ["adlfs>=2024.7"]}
"""The drivers of fsspec by which stores and videos are reached at ``s3://``, ``gs://`` and ``abfs://``."""

for package in PACKAGES:
    folder = Path("src", *package.split("."))
    if not folder.is_dir():
        raise SystemExit(
            f"setup.py {folder}: expected a folder or a link to one, got {'a file' if folder.exists() else 'nothing'}; "
            "get the sources with their links: git clone -c core.symlinks=true"
        )

[VERSION] = re.findall(r'^__version__ = "(.+)"$', Path("src/clipmill/__init__.py").read_text("utf-8"), re.MULTILINE)

# Built in a folder of its own: what an earlier build left in build/ would become part of the wheel.
with TemporaryDirectory() as build_folder:
    setup(
        name="clipmill",
        version=VERSION,
        description="An offline batch pipeline: videos in, stored features, trained models and retrieval tables out",
        license="Apache-2.0",
        # Driver and workers of Ray and Beam must run one minor version of Python, and constraints.txt is resolved and
        # tested for this one; the next one comes with its own tested pins.
        python_requires=">=3.11,<3.12",
        packages=PACKAGES,
        # src/ holds nothing but the import package: an editable install adds it to the path, and so the names of the
        # folders here stay out of it, and type checkers find the package.
        package_dir={"": "src"},
        package_data={"": ["py.typed", "*.html"]},
        install_requires=RUNTIME,
        extras_require={
            "dev": DEVELOPMENT + ONNX + OPENVINO + PROMETHEUS + WEBDATASET + LANCE + PANDAS,
            "docs": DOCUMENTATION,
            "lance": LANCE,
            "onnx": ONNX,
            "openvino": OPENVINO,
            "pandas": PANDAS,
            "prometheus": PROMETHEUS,
            "tensorboard": ["tensorboard>=2.15"],
            "webdataset": WEBDATASET,
            **OBJECT_STORES,
        },
        options={"build": {"build_base": build_folder}},
        entry_points={"console_scripts": ["clipmill=clipmill.jobs.cli:main"]},
    )
