# dsim for CPUs:     docker build -t dsim .
# with real models:  docker build -t dsim --build-arg EXTRAS=[torch] .
# From PyPI, torch for Linux brings CUDA's libraries (gigabytes) with it; a CPU needs none. To take torch from an
# index of builds for CPUs: --build-arg PIP_EXTRA_INDEX_URL=URL
# docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" dsim run heatmap
FROM python:3.12-slim
ARG EXTRAS=""
ARG PIP_EXTRA_INDEX_URL=""
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY dsim /src/dsim
COPY studies /src/studies
COPY docs /src/docs
RUN pip install --no-cache-dir -c /src/constraints.txt "/src$EXTRAS" && rm -rf /src
# Whoever runs it (--user) can write there; caches of libraries go there.
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["dsim"]
CMD ["--help"]
