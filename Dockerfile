# One image for every role; docker-compose.yml says which command runs where.
FROM python:3.13-slim-bookworm AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PATH=/opt/gristmill/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/gristmill
COPY requirements-runtime.lock ./
RUN pip install --require-hashes --requirement requirements-runtime.lock
COPY LICENSE README.md pyproject.toml ./
COPY cli cli
COPY config config
COPY gateway gateway
COPY gristmill_testing gristmill_testing
COPY local local
COPY migrations migrations
COPY models models
COPY workers workers
# The build backend is in the lock too: no dependency is fetched unchecked.
RUN pip install --no-deps --no-build-isolation .

FROM python:3.13-slim-bookworm
ENV PATH=/opt/gristmill/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
RUN groupadd --gid 10001 gristmill \
    && useradd --uid 10001 --gid 10001 --home-dir /var/lib/gristmill --create-home --shell /usr/sbin/nologin gristmill \
    # any user may run it: docker-compose.yml runs it as the owner of the secrets
    && chmod 755 /var/lib/gristmill
COPY --from=build /opt/gristmill /opt/gristmill
WORKDIR /var/lib/gristmill
USER 10001:10001
CMD ["gristmill", "--help"]
