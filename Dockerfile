# One image for all roles: `ollama-fleet ROLE`.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS dependencies
# Empty unless wheels come from a directory instead of the package index.
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
RUN python3 -m venv /opt/ollama-fleet
COPY requirements/image.txt /tmp/requirements.txt
RUN /opt/ollama-fleet/bin/pip install --require-hashes --requirement /tmp/requirements.txt

FROM dependencies AS wheel
ARG PIP_FIND_LINKS
ARG PIP_NO_INDEX
COPY requirements/build.txt /tmp/build.txt
RUN /opt/ollama-fleet/bin/pip install --require-hashes --requirement /tmp/build.txt
COPY pyproject.toml README.md LICENSE /src/
COPY operator /src/operator
RUN /opt/ollama-fleet/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist /src

FROM ${BASE}
COPY --from=dependencies /opt/ollama-fleet /opt/ollama-fleet
COPY --from=wheel /dist /tmp/dist
RUN /opt/ollama-fleet/bin/pip install --no-deps --no-index --no-cache-dir --disable-pip-version-check /tmp/dist/*.whl
ENV PATH=/opt/ollama-fleet/bin:/usr/local/bin:/usr/bin:/bin PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
ENTRYPOINT ["ollama-fleet"]
