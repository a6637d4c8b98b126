# dsim for CPUs:     docker build -t dsim .
# with real models:  docker build -t dsim --build-arg EXTRAS=[torch] .
# docker run --rm -v "$PWD:/work" dsim run heatmap
FROM python:3.12-slim
ARG EXTRAS=""
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY dsim /src/dsim
COPY studies /src/studies
COPY docs /src/docs
RUN pip install --no-cache-dir -c /src/constraints.txt "/src$EXTRAS" && rm -rf /src
WORKDIR /work
ENTRYPOINT ["dsim"]
CMD ["--help"]
