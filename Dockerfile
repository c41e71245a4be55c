# clipmill as an image.
#
#   docker build -t clipmill .                              CPU
#   docker build -t clipmill --build-arg TORCH=cuda .       CUDA (PyTorch brings its CUDA libraries; run with --gpus all)
#   docker run --rm -v "$PWD:/data" clipmill build --config build.yaml
#
# The CPU build of PyTorch is published in an index of its own (see "Get started" on pytorch.org); give its address with
# --build-arg PIP_EXTRA_INDEX_URL=... Without it, PyTorch's default build is taken: it runs on a CPU as well, but brings
# gigabytes of CUDA libraries.
#
# The image holds every extra ([all]): 2.85 GB with the CPU build, by the bytes of its layers, uncompressed: the environment
# 2.67 GB (PyTorch 0.70, decoders and OpenCV 0.36, Lance 0.23, Ray 0.20, OpenVINO 0.18, pyarrow 0.16), Debian with Python
# 0.18 GB. Measured on a base made of Debian 12's own packages (Python 3.11.2) in place of python:3.11-slim-bookworm. CUDA
# adds 4 to 5 GB, by estimate.
#
# clipmill is process 1 and ends on SIGTERM (docker stop) with exit code 4: what is committed stands. Only while Python
# itself starts (some hundredths of a second) is the signal lost; `docker run --init` ends the command then, too.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS build
ARG TORCH=cpu
ARG PIP_EXTRA_INDEX_URL=
WORKDIR /source
RUN python3 -m venv /opt/clipmill
ENV PATH=/opt/clipmill/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt ./
RUN python -m pip install --no-cache-dir -c constraints.txt setuptools wheel
# PyTorch is a layer of its own, above all that changes more often.
RUN torch="$(grep '^torch==' constraints.txt)" && case "$TORCH" in \
      cpu) python -m pip install --no-cache-dir -c constraints.txt "$torch+cpu" \
           || { echo "no CPU build of $torch in pip's indexes: taking the default build" >&2; \
                python -m pip install --no-cache-dir -c constraints.txt "$torch"; } ;; \
      cuda) python -m pip install --no-cache-dir -c constraints.txt "$torch" ;; \
      *) echo "build argument TORCH: expected cpu or cuda, got $TORCH" >&2; exit 2 ;; \
    esac
COPY setup.py pyproject.toml ./
COPY src src
COPY clipmill clipmill
COPY schemas schemas
COPY stores stores
COPY extractors extractors
COPY models models
COPY pipelines pipelines
COPY jobs jobs
# pip and wheel have done their work; setuptools stays, because torch needs it at run time.
RUN python -m pip install --no-cache-dir -c constraints.txt --no-build-isolation '.[all]' \
    && python -m pip uninstall -y wheel pip \
    && find /opt/clipmill -name __pycache__ -type d -prune -exec rm -rf {} +

FROM ${PYTHON}
# The environment's path is the same in both stages: its scripts name it.
COPY --from=build /opt/clipmill /opt/clipmill
ENV PATH=/opt/clipmill/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 clipmill && mkdir /data && chown clipmill /data
USER clipmill
WORKDIR /data
ENTRYPOINT ["clipmill"]
