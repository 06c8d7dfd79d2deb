# CPU by default; for CUDA: docker build --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130 .

# This image has the C compiler that the native kernel needs; the one that serves does without.
FROM python:3.11 AS build
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY adapters adapters
COPY server server
COPY trainer trainer
COPY benchmarks benchmarks
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 HF_HUB_DISABLE_TELEMETRY=1

# The largest layer by far comes first and changes least.
RUN pip install --index-url ${TORCH_INDEX} "torch>=2.11"

COPY --from=build /wheels /wheels
RUN pip install /wheels/*.whl

RUN useradd --create-home lorikeet && mkdir /data && chown lorikeet /data
USER lorikeet
WORKDIR /data
VOLUME /data
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

# The first start makes /data/keys.toml with one key and prints that, once. More: docker exec ... lorikeet keys new
ENV LORIKEET_API_KEYS=/data/keys.toml
ENTRYPOINT ["lorikeet", "serve", "--host", "0.0.0.0", "--make-key", "--access-log", "--data-dir", "/data"]
