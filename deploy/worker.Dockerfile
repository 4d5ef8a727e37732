# A worker for CPUs or CUDA. It loads weights from the volume /models, and downloads missing weights
# to it.
#   docker build -f deploy/worker.Dockerfile -t falconer-worker .
#   docker build -f deploy/worker.Dockerfile -t falconer-worker:cuda --build-arg DEVICE=cuda .
# With the weights in the image, for hosts without a volume and without access to the hub:
#   docker build -f deploy/worker.Dockerfile --target baked --build-arg MODEL=tiiuae/falcon-7b .
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG DEVICE=cpu
# Index of torch's CPU builds. Empty: the default index.
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python -m venv --without-pip /opt/falconer
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# torch first, so that no other package installs another build of it.
COPY pyproject.toml requirements.lock deploy/requirements.py ./
RUN index=""; if [ "$DEVICE" = cpu ]; then index="$TORCH_CPU_INDEX"; fi; \
    pip --python /opt/falconer/bin/python install -c requirements.lock \
      "$(grep '^torch==' requirements.lock)" ${index:+--extra-index-url "$index"}
RUN if [ "$DEVICE" = cpu ]; then extra=openvino; else extra=quantization; fi; \
    python requirements.py worker lora "$extra" > wanted.txt \
    && pip --python /opt/falconer/bin/python install -r wanted.txt -c requirements.lock
COPY . .
RUN pip --python /opt/falconer/bin/python install --no-deps .

FROM ${PYTHON_IMAGE} AS runtime
ARG DEVICE=cpu
# Triton, which comes with torch for CUDA, compiles its launchers of kernels while the worker runs.
RUN if [ "$DEVICE" = cuda ]; then apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*; fi
LABEL org.opencontainers.image.title="Falconer worker" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/falconer /opt/falconer
COPY deploy/probe.py /opt/falconer/probe.py
# Only /tmp and /models are written, so the root file system may be read-only.
RUN mkdir /models && chown 10001:10001 /models
# USER, because torch names its caches by the user and no account has this number.
# GLIBC_TUNABLES asks for huge pages, as shared/process/allocator.py does.
ENV PATH=/opt/falconer/bin:$PATH \
    HOME=/tmp \
    USER=falconer \
    PYTHONDONTWRITEBYTECODE=1 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1 \
    HF_HOME=/models \
    FALCONER_METRICS_HOST=0.0.0.0 \
    FALCONER_METRICS_PORT=8001 \
    FALCONER_LOG_FORMAT=json
WORKDIR /tmp
USER 10001:10001
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=30m \
    CMD ["python", "/opt/falconer/probe.py", "FALCONER_METRICS_PORT"]
ENTRYPOINT ["falconer", "worker"]

FROM runtime AS baked
ARG MODEL=tiny
ENV FALCONER_MODEL=${MODEL}
RUN falconer model info "$MODEL"
ENV HF_HUB_OFFLINE=1

FROM runtime AS worker
