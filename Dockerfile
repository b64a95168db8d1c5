# An image that runs `sparsehead` on a CPU, or on NVIDIA's GPUs; from Debian and PyPI alone.
#
#   docker build -t sparsehead .                                                                    # CPU
#   docker build -t sparsehead:cuda --build-arg TORCH_INDEX=https://pypi.org/simple .               # PyPI's torch brings CUDA
#
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" sparsehead pretrain --lam 1e-4       # results/ lies in $PWD
#   docker run --rm --gpus all --ipc host -v "$PWD:/work" sparsehead:cuda pretrain --method byol
#
# TORCH_INDEX is the package index from which pip takes torch and torchvision; without one they are Debian's, which are built for
# CPUs. BASE may be another Debian, or one with more in it. The version is made from .git, so the build context must have it.

ARG BASE=debian:trixie-slim

FROM ${BASE} AS wheel
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates git python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /build && /build/bin/pip install --no-cache-dir build
COPY . /source
RUN /build/bin/python -m build --wheel --outdir /wheel /source

FROM ${BASE}
ARG TORCH_INDEX=
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
        $(test -n "$TORCH_INDEX" || echo python3-torch python3-torchvision libopenblas0-pthread) \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv --system-site-packages /opt/sparsehead \
    && if [ -n "$TORCH_INDEX" ]; then \
        /opt/sparsehead/bin/pip install --no-cache-dir --index-url "$TORCH_INDEX" torch torchvision; \
    fi
COPY --from=wheel /wheel /wheel
RUN /opt/sparsehead/bin/pip install --no-cache-dir /wheel/*.whl
# Whoever runs it may have no home inside; matplotlib and torch keep what they make for the next start in one.
ENV PATH=/opt/sparsehead/bin:$PATH HOME=/tmp
WORKDIR /work
ENTRYPOINT ["sparsehead"]
CMD ["--help"]
