# The HTTP API. Has no torch and no model.
#   docker build -f deploy/api.Dockerfile -t falconer-api .
ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
RUN python -m venv --without-pip /opt/falconer
ENV PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# Dependencies first, so that this layer changes only with the lock.
COPY pyproject.toml requirements.lock deploy/requirements.py ./
RUN python requirements.py api s3 > wanted.txt \
    && pip --python /opt/falconer/bin/python install -r wanted.txt -c requirements.lock
COPY . .
RUN pip --python /opt/falconer/bin/python install --no-deps .

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Falconer api" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /opt/falconer /opt/falconer
COPY deploy/probe.py /opt/falconer/probe.py
# Only /tmp is written, so the root file system may be read-only.
ENV PATH=/opt/falconer/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    FALCONER_HOST=0.0.0.0 \
    FALCONER_PORT=8000 \
    FALCONER_LOG_FORMAT=json
WORKDIR /tmp
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "/opt/falconer/probe.py", "FALCONER_PORT"]
ENTRYPOINT ["falconer", "api"]
