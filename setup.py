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
    "clipmill.pipelines.training.images",
    "clipmill.pipelines.training.videos",
    "clipmill.schemas",
    "clipmill.stores",
    "clipmill.stores.feature_files",
    "clipmill.stores.formats",
    "clipmill.stores.loaders",
]
"""Written out, so that a working copy's leftovers never become part of a wheel; a test compares it with the folders."""

RUNTIME = [
    # What reads stores and evaluates: records, configs, tables.
    "numpy>=2.0,<3",
    "pyarrow>=17",
    "pydantic>=2.7,<3",
    "pyyaml>=6,<7",
    # Defaults of type variables.
    "typing-extensions>=4.12",
    # Storage. zarr 3 for sharded arrays.
    "zarr>=3.0.8,<4",
    # What zarr is made of, where its chunks are read without its event loop.
    "numcodecs>=0.14",
    "google-crc32c>=1.5",
    "fsspec>=2024.9",
    "h5py>=3.11",
    # MATLAB's .mat of version 5; scikit-learn needs it as well.
    "scipy>=1.11",
    # The exact ranking is a graph of Dask's, in threads; those of matrix products are held to one by threadpoolctl.
    "dask>=2024.9",
    "threadpoolctl>=3.5",
    # Command line and reports.
    "typer>=0.12,<1",
    "jinja2>=3.1,<4",
    "pillow>=10",
    # The report's t-SNE map, on one thread so that equal inputs give equal pages.
    "scikit-learn>=1.5",
]

EXTRAS = {
    # Decoding and networks. decord2 is the maintained fork of decord, under its import name; decord 0.6.0, its last
    # release, can be put in its place (docs/decoding.md), but not beside it: both would write the same folder.
    # One OpenCV and no second one beside it: both would write the same cv2 folder. contrib has optical flow; headless
    # needs no display libraries.
    # safetensors: weights files of that form.
    "extract": [
        "torch>=2.6,<3",
        "safetensors>=0.4.3,<1",
        "decord2==3.4.0",
        "av>=13",
        "opencv-contrib-python-headless>=4.10",
    ],
    "train": ["torch>=2.6,<3", "safetensors>=0.4.3,<1"],
    "ray": ["ray>=2.40,<3"],
    # Beam's own range is narrow. psutil finds the worker processes of its direct runner.
    "beam": ["apache-beam>=2.65,<3", "psutil>=5.9"],
    # A cluster; in this process Dask itself is enough.
    "dask": ["distributed>=2024.9"],
    # Approximate and binary search.
    "faiss": ["faiss-cpu>=1.9,<2"],
    # The one reads a model as data, the other runs it.
    "onnx": ["onnx>=1.17,<2", "onnxruntime>=1.20,<2"],
    # Runs a recipe's network in place of PyTorch (`runtime: openvino`).
    "openvino": ["openvino>=2025.0"],
    # Metrics of a build; since 0.20 its server can be shut down.
    "prometheus": ["prometheus-client>=0.20"],
    "tensorboard": ["tensorboard>=2.15"],
    # Formats of export, and rows as a pandas frame.
    "webdataset": ["webdataset>=0.2.100"],
    "lance": ["pylance>=0.20"],
    "pandas": ["pandas>=2"],
    # The drivers of fsspec by which stores and videos are reached at ``s3://``, ``gs://`` and ``abfs://``.
    "s3": ["s3fs>=2024.9"],
    "gcs": ["gcsfs>=2024.9"],
    "azure": ["adlfs>=2024.7"],
}
"""Name of an extra -> what it brings; `clipmill.schemas.extras` names the one that a missing package belongs to."""

UNTESTED = ("gcs", "azure")
"""Those whose packages constraints.txt does not pin, and no test uses."""

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
    # Runs the notebook of the examples.
    "ipykernel>=6",
    "nbclient>=0.8",
    "nbformat>=5.9",
    # Which version of Python the code needs.
    "vermin>=1.6",
]

DOCUMENTATION = [
    # The pages as a site, with the public names from their docstrings (make docs).
    "mkdocs-material>=9.5",
    "mkdocstrings[python]>=0.26",
]

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
        # constraints.txt is resolved for 3.11, and the tests run there. Nothing in the code stands in the way of the
        # two after it (tests/test_packaging.py); driver and workers of Ray and Beam must run one and the same.
        python_requires=">=3.11,<3.14",
        packages=PACKAGES,
        # src/ holds nothing but the import package: an editable install adds it to the path, and so the names of the
        # folders here stay out of it, and type checkers find the package.
        package_dir={"": "src"},
        package_data={"": ["py.typed", "*.html"]},
        install_requires=RUNTIME,
        extras_require={
            **EXTRAS,
            "all": sorted({requirement for found in EXTRAS.values() for requirement in found}),
            "dev": DEVELOPMENT + sorted({item for name in EXTRAS.keys() - set(UNTESTED) for item in EXTRAS[name]}),
            "docs": DOCUMENTATION,
        },
        options={"build": {"build_base": build_folder}},
        entry_points={"console_scripts": ["clipmill=clipmill.__main__:main"]},
    )
